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
    BatchSizeStudy,
    ExperimentConfig,
    InferenceStudy,
    NormConfig,
    TrainConfig,
)
from experiments.studies import adaptation, batch_size, inference
from experiments.studies.corruptions import CORRUPTIONS, SEVERITIES, corrupt

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


def test_inference_early_in_training():
    config = InferenceStudy(
        name="a", num_seeds=1, experiment=experiment(momentum=0.99), steps=(1, 10)
    )
    found = cells(inference.run(config, silent))
    running, debiased, whole = found[("10",)]
    assert running < 65 and debiased > 75 and whole > 75


def test_batch_size():
    config = BatchSizeStudy(
        name="a", num_seeds=1, experiment=experiment(60), batch_sizes=(2, 64)
    )
    found = cells(batch_size.run(config, silent))
    norm, renorm, group, layer, parts = found[("2",)]
    assert max(renorm, group, layer) < min(norm, parts)


def test_variants_see_as_many_examples():
    base = experiment(60)
    small = batch_size.variant(base, "batch", 4)
    assert small.train.num_steps * 4 == 60 * 64
    assert small.optimizer.learning_rate == pytest.approx(0.1 / 16)
    parts = batch_size.variant(base, "virtual", 4)
    assert parts.data.batch_size == 64 and parts.norm.virtual_batch_size == 4


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
    path = "configs/studies/inference.py"
    small = ["--num-seeds", "1", "--steps", "1", "2"]
    done = run("study", path, *small, "--workdir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "the same, debiased" in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"study configs/studies/inference.py --num-seeds 1", page)
    assert "<svg" in page and (tmp_path / "inference.svg").exists()
    wrong = run("study", path, "--num-seed", "1")
    assert wrong.returncode != 0 and "--num-seeds" in wrong.stderr + wrong.stdout
    other = run("study", "configs/digits_dense.py")
    assert other.returncode == 2 and "`train` takes it" in other.stderr
    assert "Traceback" not in other.stderr + wrong.stderr
