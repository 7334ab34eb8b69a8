# SPDX-License-Identifier: Apache-2.0
"""`--dry-run`: what a run will be, before anything is written."""

import re

import jax
import pytest

from experiments.config import ExperimentConfig, ModelConfig
from experiments.data import digits
from experiments.models import make_model
from tests.experiments.commands import one_line_error, run_here
from tests.experiments.test_evaluate import files_of, trained

DENSE = "configs/digits_dense.py"


def plan_of(workdir, *more):
    result = run_here("train", DENSE, "--workdir", workdir, "--dry-run", *more)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", ["dense", "conv", "gru", "step_gru"])
def test_the_table_has_every_parameter(tmp_path, name):
    text = plan_of(tmp_path / "run", "--model.name", name)
    model = make_model(ExperimentConfig(name="a", model=ModelConfig(name=name)), 10)
    image = digits.load().test.image[:2]
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=True))
    params = sum(a.size for a in jax.tree.leaves(variables["params"]))
    statistics = sum(a.size for a in jax.tree.leaves(variables["batch_stats"]))
    assert f"{params:,} parameters and {statistics:,} running statistics" in text
    cells = re.findall(r"│\s+([\d,]+) │\s+([\d,]+|-) │\n", text)
    assert sum(int(cell.replace(",", "")) for cell, _ in cells) == params


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_it_shows_memory_and_the_first_batch_of_the_run(tmp_path, mode):
    options = ("--parallel.mode", mode, "--parallel.num-devices", "2")
    options += ("--train.average-decay", "0.9", "--data.num-empty", "8")
    text = plan_of(tmp_path / "run", *options, "--optimizer.name", "adam")
    (size,) = re.findall(r"parameters (\S+ kB)", text)
    assert f"average {size}, the step's temporary arrays" in text
    assert "float32 64 x 8 x 8 x 1, from 0 to 1, mean 0.3" in text
    (labels,) = re.findall(
        r"56 of 64 rows hold examples; examples by label (.*)\.", text
    )
    assert sum(int(one.split(": ")[1]) for one in labels.split(", ")) == 56


def test_nothing_is_written(tmp_path):
    text = plan_of(tmp_path / "run")
    assert text.endswith(
        "Nothing was written. Without --dry-run, this would begin at step 0.\n"
    )
    assert not (tmp_path / "run").exists()
    folder = trained(tmp_path / "run")
    before = files_of(folder)
    assert "would resume after step 40" in plan_of(folder)
    assert "would begin at step 0" in plan_of(folder, "--overwrite", "--seed", "1")
    assert files_of(folder) == before


def test_it_finds_what_would_stop_the_run(tmp_path):
    folder = trained(tmp_path / "run")
    command = ("train", DENSE, "--workdir", folder, "--dry-run")
    line = one_line_error(run_here(*command, "--seed", "1"))
    assert "seed is 0 there, 1 now" in line
    lost = ("--data.name", "cifar10", "--data.path", tmp_path / "lost", "--overwrite")
    assert f"`{tmp_path / 'lost'}" in one_line_error(run_here(*command, *lost))
