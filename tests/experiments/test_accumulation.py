# SPDX-License-Identifier: Apache-2.0
"""Accumulated gradients: running statistics move once an update, by all its batches."""

import functools
import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file

import experiments.train.signals as signals
from experiments.config import (
    DataConfig,
    ExperimentConfig,
    NormConfig,
    OptimizerConfig,
    ParallelConfig,
    TrainConfig,
)
from experiments.data import Batch, load_dataset
from experiments.models import make_model
from experiments.run.metrics import read_metrics
from experiments.train.checkpoints import CHECKSUMS, _signed
from experiments.train.optimizers import make_optimizer
from experiments.train.parallel import make_parallel, mapped
from experiments.train.scanned import train_scanned
from experiments.train.steps import (
    Task,
    eval_step,
    init_state,
    running_stats,
    train_step,
    variables_of,
)
from experiments.train.weights import initial_weights
from tests.experiments.commands import one_line_error, run_here
from tests.experiments.test_training_features import without_times

pytestmark = pytest.mark.long

K, SIZES = 3, (16, 8, 12)  # batches of an update, and how many of their rows count
DENSE = "configs/digits_dense.py"


def task_of(steps, mode="jit", num_devices=1):
    parallel = ParallelConfig(mode=mode, num_devices=num_devices)
    config = ExperimentConfig(
        name="a",
        parallel=parallel,
        norm=NormConfig(momentum=0.75),
        optimizer=OptimizerConfig(accumulate_steps=steps),
    )
    parallel = make_parallel(parallel)
    task = Task(
        make_model(config, 10, axis_name=parallel.axis_name, num_devices=num_devices),
        make_optimizer(config.optimizer, 12),
        axis_name=parallel.axis_name,
        sums_gradients=mode == "pmap",
    )
    image = load_dataset(config.data).train.image[:2]
    state = init_state(task._replace(model=make_model(config, 10)), image, 0)
    return task, parallel, state


def batches(num):
    data = load_dataset(DataConfig()).train
    for k in range(num):
        rows = slice(16 * k, 16 * (k + 1))
        yield Batch(data.image[rows], data.label[rows], np.arange(16) < SIZES[k % K])


def trained(num, *arguments):
    """The states before each step and after the last."""
    task, parallel, state = task_of(*arguments)
    step = mapped(parallel, train_step, task)
    state = parallel.put_state(state)
    states = [state]
    for batch in batches(num):
        states.append(step(states[-1], parallel.put_batch(batch))[0])
    return task, [jax.tree.map(np.asarray, parallel.get_state(s)) for s in states]


def hidden(state, batch):
    """What enters the first norm, of the rows that count, in float64."""
    x = np.asarray(batch.image, np.float64).reshape(len(batch.image), -1)
    dense = state.params["Dense_0"]
    return (x @ np.float64(dense["kernel"]) + np.float64(dense["bias"]))[batch.mask]


@pytest.mark.parametrize(
    ("mode", "num_devices"), [("jit", 1), ("jit", 4), ("shard_map", 4), ("pmap", 2)]
)
def test_statistics_move_once_an_update(mode, num_devices):
    """By the merged batch, over two updates, the rest of a third left uncommitted."""
    _, states = trained(2 * K + 1, K, mode, num_devices)
    mean, var = 0.0, 1.0
    given = list(batches(2 * K + 1))
    for number, state in enumerate(states):
        if number and number % K == 0:
            rows = slice(number - K, number)
            merged = np.concatenate([*map(hidden, states[rows], given[rows])])
            mean = 0.75 * mean + 0.25 * merged.mean(0)
            var = 0.75 * var + 0.25 * merged.var(0)
        stats = state.batch_stats["BatchNorm_0"]
        shape = stats["mean"].shape
        np.testing.assert_allclose(
            stats["mean"], np.broadcast_to(mean, shape), 1e-5, 1e-6
        )
        np.testing.assert_allclose(stats["var"], np.broadcast_to(var, shape), 1e-5)
        counted = sum(SIZES[: number % K])
        np.testing.assert_array_equal(stats["accumulated_count"], counted)
    first, middle = (variables_of(states[number]) for number in (0, K - 1))
    jax.tree.map(np.testing.assert_array_equal, first, middle)


def test_without_accumulation_there_is_none():
    _, (start, *_, last) = trained(2, 1)
    assert set(start.batch_stats["BatchNorm_0"]) == {"mean", "var"}
    assert jax.tree.structure(start) == jax.tree.structure(last)
    jax.tree.map(
        np.testing.assert_array_equal, running_stats(last.batch_stats), last.batch_stats
    )


def test_evaluation_is_by_what_is_committed():
    task, states = trained(K + 1, K)
    middle = states[K + 1]
    (batch,) = batches(1)
    plain = middle._replace(batch_stats=running_stats(states[K].batch_stats))
    scores = jax.jit(functools.partial(eval_step, task))
    assert scores(middle, batch) == scores(plain, batch)


def test_scanned_runs_accumulate():
    config = ExperimentConfig(
        name="a",
        optimizer=OptimizerConfig(accumulate_steps=2),
        train=TrainConfig(num_steps=3, eval_every=3),
    )
    (state,) = train_scanned(config, [0])
    stats = state.batch_stats["BatchNorm_0"]
    np.testing.assert_array_equal(stats["accumulated_count"], 64)
    assert np.all(stats["mean"] != 0) and np.all(stats["mean"] != stats["pending_mean"])


# A run and its folder

EVERY = [
    "--optimizer.accumulate-steps", K, "--train.num-steps", 11,
    "--train.eval-every", 5, "--train.log-every", 4, "--train.checkpoint-every", 4,
    "--train.average-decay", 0.9, "--train.average-examples", 200,
]  # fmt: skip


def start(folder, *more):
    return run_here("train", DENSE, "--workdir", folder, *EVERY, *more)


def last_state(folder):
    with ocp.CheckpointManager(folder / "checkpoints") as manager:
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        return manager.restore(manager.latest_step(), args=args)["state"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accumulated") / "run"
    result = start(folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_interruptions_in_the_middle_change_nothing(run, tmp_path, monkeypatch):
    """Stops after steps 4 and 8, one and two batches into an update."""
    folder, stops = tmp_path / "run", []

    class Fourth:
        def __enter__(self):
            return lambda step: 15 if step % 4 == 0 else None

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(signals, "stop_on_signals", lambda *_, **__: Fourth())
    while (result := start(folder)).returncode:
        assert result.returncode == 128 + 15, result.stderr
        norm = last_state(folder)["batch_stats"]["BatchNorm_0"]
        stops.append(int(norm["accumulated_count"][0]))
    assert stops == [64, 128]
    records = [read_metrics(f / "metrics.jsonl") for f in (folder, run)]
    assert without_times(records[0]) == without_times(records[1])
    jax.tree.map(np.testing.assert_array_equal, last_state(folder), last_state(run))


def test_weights_are_those_of_the_last_update(run, tmp_path):
    """The run ends two batches into an update, which nobody else sees."""
    stats = last_state(run)["batch_stats"]
    assert stats["BatchNorm_0"]["accumulated_count"][0] == 128
    file = tmp_path / "some.safetensors"
    result = run_here("export", run, "--checkpoint", 11, "--output", file)
    assert result.returncode == 0, result.stderr
    for path in (file, run / "best.safetensors"):
        names = {name for name in load_file(path) if name.startswith("batch_stats")}
        assert {name.rpartition(".")[2] for name in names} == {"mean", "var"}
    exported = load_file(file)
    for layer, held in stats.items():
        for name in ("mean", "var"):
            array = exported[f"batch_stats.{layer}.{name}"]
            np.testing.assert_array_equal(array, held[name])
    result = run_here("evaluate", run, "--checkpoint", 11)
    assert result.returncode == 0, result.stderr
    (last,) = (r for r in read_metrics(run / "metrics.jsonl") if r.step == 11)
    assert f"{last.test_accuracy:.2%}" in result.stdout


def test_the_start_weighs_as_after_three_updates(run):
    result = run_here("diagnose", run, "--checkpoint", 11)
    assert not result.stderr
    page = (run / "diagnosis.html").read_text("utf-8")
    assert "after 3 steps: the initial 0 and 1" in " ".join(page.split())


def test_a_run_starts_with_another_runs_statistics(run):
    """What accumulates begins at those, in a run that accumulates and in one not."""
    for steps in (K, 1):
        _, _, state = task_of(steps)
        state, _ = initial_weights(run, state)
        norm = state.batch_stats["BatchNorm_0"]
        assert ("pending_mean" in norm) == (steps > 1)
        assert np.any(norm["mean"] != 0)
        if steps > 1:
            np.testing.assert_array_equal(norm["pending_mean"], norm["mean"])
            assert not np.any(norm["accumulated_count"])


def test_a_checkpoint_of_an_older_version_is_refused(run, tmp_path):
    """One whose statistics moved at each batch, and which has none that accumulate."""
    folder = shutil.copytree(run, tmp_path / "run")
    (path,) = (folder / "checkpoints" / "11" / "data").glob("metadata")
    data = json.loads(path.read_text())
    data[CHECKSUMS] = {
        name: sum
        for name, sum in data[CHECKSUMS].items()
        if "accumulated_" not in name and "pending_" not in name
    }
    del data["digest"]
    path.write_text(json.dumps(_signed(data)))
    assert one_line_error(start(folder, "--train.num-steps", 20)) == (
        f"error: checkpoint `{folder / 'checkpoints' / '11'}` is of an older version, "
        "whose running statistics moved at each batch, not at each update of "
        "optimizer.accumulate_steps batches; start again with --overwrite."
    )
