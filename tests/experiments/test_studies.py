# SPDX-License-Identifier: Apache-2.0
"""Small runs of the studies: their tables say what their claims need."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.config import (
    AdaptationStudy,
    ExperimentConfig,
    NormConfig,
    TrainConfig,
)
from experiments.lab import adaptation
from experiments.lab.corruptions import CORRUPTIONS, SEVERITIES, corrupt

ROOT = Path(__file__).parents[2]


def silent(items, _):
    return items


def cells(result):
    """The means in the rows, by all that comes before them."""
    found = {}
    for row in result.table.rows:
        numbers = [float(cell.split(" ")[0]) for cell in row if "±" in cell]
        found[tuple(cell for cell in row if "±" not in cell)] = numbers
    return found


def experiment(num_steps=200, **norm):
    return ExperimentConfig(
        name="a", train=TrainConfig(num_steps=num_steps), norm=NormConfig(**norm)
    )


def test_adaptation_mends_a_shift_and_harms_nothing():
    config = AdaptationStudy(name="a", num_seeds=1, experiment=experiment())
    found = cells(adaptation.run(config, silent))
    assert len(found) == 4 * 6
    source, adapted, prior = found["shift", "5"]
    assert source < 60 and adapted > 93 and source < prior < adapted
    clean = found["shift", "0"]
    assert max(clean) - min(clean) < 3


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_grow(kind, rng):
    image = rng.random((20, 8, 8, 1)).astype(np.float32)
    off = [np.abs(corrupt(image, kind, s, 0) - image).mean() for s in SEVERITIES]
    assert off == sorted(off) and off[0] > 0
    same = corrupt(image, kind, 3, 0)
    assert same.dtype == np.float32
    np.testing.assert_array_equal(same, corrupt(image, kind, 3, 0))


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_command(tmp_path):
    """The table, the page and the figure; a typo gets an answer."""
    path = "configs/studies/adaptation.py"
    small = ["--num-seeds", "1", "--prior-counts", "0", "--batch-size", "360"]
    done = run("study", path, *small, "--workdir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "as trained" in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"study configs/studies/adaptation.py --num-seeds 1", page)
    assert "<svg" in page and (tmp_path / "adaptation.svg").exists()
    wrong = run("study", path, "--num-seed", "1")
    assert wrong.returncode != 0 and "--num-seeds" in wrong.stderr + wrong.stdout
    other = run("study", "configs/digits_dense.py")
    assert other.returncode == 2 and "`train` takes it" in other.stderr
    assert "Traceback" not in other.stderr + wrong.stderr
