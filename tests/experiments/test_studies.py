# SPDX-License-Identifier: Apache-2.0
"""The study of adaptation: what it measures, and its command."""

import dataclasses
import re

import numpy as np
import pytest

from configs.studies.adaptation import get_config
from experiments.config import changed
from experiments.lab import adaptation
from experiments.lab.corruptions import CORRUPTIONS, corrupt
from tests.experiments.commands import run, run_here

pytestmark = pytest.mark.long


def test_adaptation_repairs_a_shift_and_harms_nothing():
    """A row for each variant; resumed, only the missing ones."""
    study = dataclasses.replace(get_config(), num_seeds=1)
    variants = tuple(
        dataclasses.replace(
            v, experiment=changed(v.experiment, {"train.num_steps": 200})
        )
        for v in study.variants
        if v.adaptation.corruption == "shift" and v.adaptation.severity in (0, 5)
    )
    study = dataclasses.replace(study, variants=variants, claims=())
    (first, *rest) = rows = [row for (row,) in adaptation.rows(study, [])]
    assert [
        tuple((k, row[k]) for k, _ in v.settings)
        for v, row in zip(variants, rows, strict=True)
    ] == [v.settings for v in variants]
    assert {row["seed"] for row in rows} == {100}
    found = {
        severity: [r["test_accuracy"] for r in rows if r["severity"] == severity]
        for severity in (0, 5)
    }
    source, adapted, prior = found[5]
    assert source < 0.6 and adapted > 0.93 and source < prior < adapted
    assert max(found[0]) - min(found[0]) < 0.03
    assert list(adaptation.rows(study, rest)) == [[first]]
    assert list(adaptation.rows(study, rows)) == []


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_grow(kind, rng):
    image = rng.random((20, 8, 8, 1)).astype(np.float32)
    off = [np.abs(corrupt(image, kind, s, 0) - image).mean() for s in range(6)]
    assert off == sorted(off) and off[0] == 0 < off[1]
    same = corrupt(image, kind, 3, 0)
    assert same.dtype == np.float32
    np.testing.assert_array_equal(same, corrupt(image, kind, 3, 0))


@pytest.mark.processes
def test_command(tmp_path):
    """The numbers, the verdicts, the page and the figure; a typo gets an answer."""
    path = "configs/studies/adaptation.py"
    done = run("study", path, "--num-seeds", "1", "--workdir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "as trained" in done.stdout and "undecided" in done.stdout
    assert "adaptation: 72 runs in" in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"study configs/studies/adaptation.py --num-seeds 1", page)
    assert "<svg" in page and (tmp_path / "adaptation.svg").exists()
    wrong = run_here("study", path, "--num-seed", "1")
    assert wrong.returncode != 0 and "--num-seeds" in wrong.stderr + wrong.stdout
    other = run_here("study", "configs/digits_dense.py")
    assert other.returncode == 2 and "`train` takes it" in other.stderr
    assert "Traceback" not in other.stderr + wrong.stderr
