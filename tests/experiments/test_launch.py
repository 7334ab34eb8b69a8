# SPDX-License-Identifier: Apache-2.0
"""Several processes train as one, over loopback; when one dies, all stop."""

import os
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.cli.launch import Launch
from experiments.errors import UserError
from experiments.run.folder import latest_step
from experiments.run.metrics import read_metrics, series
from tests.experiments.commands import COMMAND, ROOT, one_line_error, run_here

pytestmark = pytest.mark.processes


def training(folder, mode="jit"):
    return [
        "train", "configs/digits_dense.py", "--workdir", folder,
        "--train.num-steps", 60, "--parallel.num-devices", 4,
        "--train.checkpoint-every", 20, "--parallel.mode", mode,
    ]  # fmt: skip


def start(folder, num_processes, mode="jit", *more):
    arguments = ["launch", "--num-processes", num_processes, *training(folder, mode)]
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments), *more],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(*args):
    process = start(*args)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0 and "Traceback" not in out + err, err[-3000:]
    return out


def curve(folder):
    records = read_metrics(folder / "metrics.jsonl")
    assert [r.step for r in records] == list(range(10, 61, 10))
    return np.array([series(records, n)[1] for n in ("loss", "test_accuracy")])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process gives, this one."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    result = run_here(*training(folder))
    assert result.returncode == 0, result.stderr
    return curve(folder)


def test_processes_train_as_one(tmp_path, alone):
    """By `shard_map`; by `jit`, with two and four processes, in what follows."""
    folder = tmp_path / "run"
    out = finish(folder, 2, "shard_map")
    assert out.count("Report: ") == 1  # by one process
    np.testing.assert_allclose(curve(folder), alone, rtol=1e-4)


def wait_until(process, folder, step):
    deadline = time.monotonic() + 120
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and any(r.step >= step for r in read_metrics(metrics))):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


def test_a_signal_saves_all_and_the_same_command_resumes(tmp_path, alone):
    folder = tmp_path / "run"
    process = start(folder, 2)
    wait_until(process, folder, 10)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, (out, err[-3000:])
    assert "Stopped by SIGTERM after step " in out
    out = finish(folder, 2)
    assert "Resuming after step " in out
    np.testing.assert_allclose(curve(folder), alone, rtol=1e-4)
    whole = tmp_path / "whole"
    finish(whole, 2)  # bit for bit what two processes give uninterrupted
    np.testing.assert_array_equal(curve(folder), curve(whole))
    states = last_state(folder), last_state(whole)
    assert len(states[0]) > 8
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(one, other)


def last_state(folder):
    """The arrays of the last checkpoint, which two processes wrote."""
    path = (folder / "checkpoints" / "60" / "state").absolute()
    with ocp.PyTreeCheckpointer() as checkpointer:
        held = checkpointer.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), held
        )
        args = ocp.args.PyTreeRestore(restore_args=as_numpy)
        return jax.tree.leaves(checkpointer.restore(path, args=args))


def children(process):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    return sorted(map(int, listed.stdout.split()))


def test_one_that_dies_ends_all_with_a_clear_message(tmp_path, alone):
    folder = tmp_path / "run"
    process = start(folder, 4)
    wait_until(process, folder, 40)  # after the first checkpoint
    pids = children(process)
    assert len(pids) == 4
    os.kill(pids[2], signal.SIGKILL)
    begin = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begin < 30
    assert process.returncode != 0
    assert "the others are stopped, and the same command resumes after step " in err
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    out = finish(folder, 4)
    assert out.count("Resuming after step ") == out.count("Report: ") == 1
    np.testing.assert_allclose(curve(folder), alone, rtol=1e-4)


def test_a_first_process_that_is_killed_is_one_sentence(tmp_path):
    """It coordinates the others; their C++ shows that loss as a stack trace."""
    folder = tmp_path / "run"
    process = start(folder, 2)
    wait_until(process, folder, 40)
    os.kill(children(process)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    waits = "Waiting for the other processes"  # on a slow machine, as it starts
    (line,) = [line for line in err.splitlines() if not line.startswith(waits)]
    assert line.startswith("error: process 0 of 2 was ended by SIGKILL; the others ")
    assert process.returncode == 128 + signal.SIGKILL


def test_before_overwriting_no_step_of_the_older_run_is_offered(tmp_path):
    folder = tmp_path / "run"
    assert run_here(*training(folder)).returncode == 0
    process = start(folder, 2, "jit", "--overwrite")
    while not (pids := children(process)):
        time.sleep(0.01)
    os.kill(pids[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert err == (
        "error: process 0 of 2 was ended by SIGKILL; the others are stopped, and the "
        "same command starts again.\n"
    )
    assert latest_step(folder) == 60


def test_pmap_is_for_one_process(tmp_path):
    arguments = "launch", "--num-processes", 2, *training(tmp_path / "run", "pmap")
    line = one_line_error(run_here(*arguments))
    text = (
        "error: `parallel.mode` must be jit or shard_map for 2 processes, got 'pmap'."
    )
    assert line == text


@pytest.mark.parametrize("given", [[], ["--num-processes", "0", "train"], ["train"]])
def test_mistakes(given):
    with pytest.raises(UserError, match="`launch` takes `--num-processes N train"):
        Launch.parse("launch", given)
