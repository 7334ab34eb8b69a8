# SPDX-License-Identifier: Apache-2.0
"""Saved runs: scored as in training, whatever trained them, and never disturbed."""

import json
import shutil

import numpy as np
import pytest

from experiments.data import digits
from experiments.run.metrics import read_metrics
from experiments.train import saved
from experiments.train.prediction import find_mistakes
from tests.experiments.commands import one_line_error, run_here

pytestmark = pytest.mark.long

SHORT = ("--train.num-steps", "40", "--train.checkpoint-every", "20")


def trained(folder, *more, config="configs/digits_dense.py"):
    result = run_here("train", config, "--workdir", folder, *SHORT, *more)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain") / "run")


def files_of(folder):
    """All files with their bytes."""
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--parallel.num-devices", "2", "--parallel.mode", "shard_map"),
        ("--parallel.num-devices", "4", "--parallel.mode", "pmap"),
        ("--optimizer.name", "adam", "--train.dtype", "bfloat16"),
        ("--norm.kind", "none"),
    ],
)
def test_scores_as_training_did(tmp_path, more):
    """The same examples are right, and the loss is equal up to rounding."""
    folder, test = trained(tmp_path / "run", *more), digits.load().test
    records = {r.step: r for r in read_metrics(folder / "metrics.jsonl")}
    for step in (20, 40):
        run = saved.load(folder, step)
        found, record = find_mistakes(run, test, lambda done: None), records[step]
        assert np.trace(found.table) == round(record.test_accuracy * len(test))
        rtol = 1e-2 if "bfloat16" in more else 1e-5
        np.testing.assert_allclose(found.loss, record.test_loss, rtol=rtol)
    result = run_here("evaluate", folder, "--checkpoint", "latest")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(f"{records[40].test_accuracy:.2%}") >= 2


def test_best_is_the_best_that_is_kept(folder):
    records = {r.step: r.test_accuracy for r in read_metrics(folder / "metrics.jsonl")}
    best = max((records[step], step) for step in (20, 40))[1]
    assert saved.load(folder).step == best
    assert saved.load(folder, "latest").step == 40


def test_averaged_weights_score_as_in_training(tmp_path):
    folder = trained(tmp_path / "run", "--train.average-decay", "0.8")
    expected = read_metrics(folder / "metrics.jsonl")[-1].average_test_accuracy
    result = run_here("evaluate", folder, "--average", "--checkpoint", "latest")
    assert result.stdout.count(f"{expected:.2%}") >= 2, result


def test_nothing_in_the_folder_changes(tmp_path, folder):
    """Neither by reading, nor what a process that trains now has not finished."""
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    unfinished = copy / "checkpoints" / "60.orbax-checkpoint-tmp"
    shutil.copytree(copy / "checkpoints" / "40", unfinished)
    before = files_of(copy)
    for which in ("best", "latest"):
        assert saved.load(copy, which).step in (20, 40)
    assert run_here("evaluate", copy).returncode == 0
    assert files_of(copy) == before


def test_the_worst_class_comes_first(folder):
    result = run_here("evaluate", folder, "--num-classes", "2")
    run = saved.load(folder)
    table = find_mistakes(run, digits.load().test, lambda done: None).table
    worst = int(np.argmin(table.diagonal() / table.sum(1)))
    rows = result.stdout.split("most often taken for")[1].splitlines()
    first = next(line for line in rows if "%" in line)
    assert first.split()[1] == str(worst) and "The other 8 classes" in result.stdout


def edited(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_mistakes(tmp_path, folder):
    line = one_line_error(run_here("evaluate", tmp_path))
    assert line == (
        f"error: `{tmp_path}` is not the folder of a run: it has no `config.json`."
    )
    line = one_line_error(run_here("evaluate", folder, "--checkpoint", "30"))
    assert line == (
        "error: `checkpoint` must be best, latest, or one of the steps that are kept, "
        "20, 40, got 30."
    )
    line = one_line_error(run_here("evaluate", folder, "--average"))
    assert "has kept no averaged weights" in line
    line = one_line_error(run_here("evaluate", folder, folder))
    assert line == f"error: `{folder}` must be given once, got it twice."
    line = one_line_error(run_here("evaluate"))
    assert line == "error: `evaluate` takes at least one run's folder."
    line = one_line_error(run_here("evaluate", folder, "--data.path", "a"))
    assert "`data.path` must be left out for digits" in line

    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    edited(copy, lambda config: config["model"].update(of_tomorrow=1))
    line = one_line_error(run_here("evaluate", copy))
    assert "there is no field `model.of_tomorrow` in this version" in line
    edited(copy, lambda config: config["model"].pop("of_tomorrow"))
    edited(copy, lambda config: config["model"].update(hidden=[8]))
    line = one_line_error(run_here("evaluate", copy))
    assert "is of a run of another config" in line or "model.hidden" in line
    (copy / "config.json").write_text("{")
    line = one_line_error(run_here("evaluate", copy))
    assert f"`{copy / 'config.json'}` is not the config of a run" in line
    shutil.copy(folder / "config.json", copy)
    shutil.rmtree(copy / "checkpoints")
    line = one_line_error(run_here("evaluate", copy))
    assert f"`{copy}` has no checkpoint yet" in line


def test_a_field_that_came_later_has_its_default(tmp_path, folder):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    edited(copy, lambda config: config["model"].pop("init_scale"))
    assert saved.load(copy).config == saved.load(folder).config
