# SPDX-License-Identifier: Apache-2.0
"""Runs that are stopped, killed or out of room, as real processes; they resume."""

import json
import logging
import os
import shutil
import signal
import subprocess
import time

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.config import ExperimentConfig
from experiments.run.metrics import read_metrics
from experiments.train.checkpoints import Checkpoints
from tests.experiments.commands import COMMAND, ROOT, run_here

pytestmark = pytest.mark.processes

STEPS = 120
ARGUMENTS = [
    "train", "configs/digits_dense.py", "--train.num-steps", str(STEPS),
    "--train.checkpoint-every", "30", "--train.log-every", "7",
]  # fmt: skip


def start(folder, *more):
    return subprocess.Popen(
        [*COMMAND, *ARGUMENTS, "--workdir", str(folder), *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder):
    process = start(folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and not err, err
    return out


def finish_here(folder, *more):
    """In this process, whose threads may add in another order."""
    result = run_here(*ARGUMENTS, "--workdir", folder, *more)
    assert "Traceback" not in result.stdout + result.stderr, result.stderr
    return result.returncode, result.stdout, result.stderr


def wait_for(process, happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def lines(folder):
    """The metrics but for the times."""
    return [
        r._replace(ms_per_step=None, images_per_second=None, data_wait=None)
        for r in read_metrics(folder / "metrics.jsonl")
    ]


def last_state(folder):
    """The arrays of the last checkpoint."""
    manager = ocp.CheckpointManager(folder / "checkpoints")
    step = manager.latest_step()
    assert step == STEPS
    args = ocp.args.Composite(state=ocp.args.StandardRestore())
    held = manager.restore(step, args=args)["state"]
    manager.close()
    import jax

    return jax.tree.leaves(held)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(folder)
    return folder


def check_is(folder, expected):
    """Bit for bit."""
    assert lines(folder) == lines(expected)
    for one, other in zip(last_state(folder), last_state(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_signal_saves_and_the_same_command_resumes(tmp_path, uninterrupted):
    folder, stopped = tmp_path / "run", 0
    metrics = folder / "metrics.jsonl"
    for number, word in (
        (signal.SIGTERM, "Stopped by SIGTERM"),
        (signal.SIGINT, "Interrupted"),
    ):
        process = start(folder)

        def advanced(stopped=stopped):
            there = read_metrics(metrics) if metrics.exists() else []
            return any(r.step > stopped for r in there)

        wait_for(process, advanced)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 128 + number and "Traceback" not in out + err
        assert f"{word} after step " in out and "the same command resumes" in out
        assert stopped == 0 or f"Resuming after step {stopped}." in out
        stopped = int(out.split(f"{word} after step ")[1].split(".")[0])
    assert f"Resuming after step {stopped}." in finish(folder)
    check_is(folder, uninterrupted)


def test_kill_loses_at_most_the_steps_since_the_last_checkpoint(
    tmp_path, uninterrupted
):
    """Three times, at any moment; the second often while a checkpoint is written."""
    folder = tmp_path / "run"
    for wanted in (1, 30, 60):
        process = start(folder)
        metrics = folder / "metrics.jsonl"

        def reached(wanted=wanted, metrics=metrics):
            there = metrics.exists() and [r.step for r in read_metrics(metrics)]
            return there and there[-1] > wanted

        wait_for(process, reached)
        process.kill()
        process.communicate()
    assert "Resuming after step " in finish(folder)
    check_is(folder, uninterrupted)


def test_a_finished_run_says_so_again(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    status, out, _ = finish_here(folder)
    assert status == 0 and f"Resuming after step {STEPS}." in out
    assert lines(folder) == lines(uninterrupted)


def test_a_broken_checkpoint_is_named_and_stays(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    step = folder / "checkpoints" / str(STEPS)
    for file in (step / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"broken")
    before = (folder / "metrics.jsonl").read_text()
    status, _, err = finish_here(folder)
    assert status == 2
    assert err.startswith(f"error: checkpoint `{step}` cannot be restored: ")
    assert (folder / "metrics.jsonl").read_text() == before


def test_two_at_once_share_nothing(tmp_path):
    """The second is refused, of the same config too, and harms nothing."""
    folder = tmp_path / "run"
    first = start(folder, "--train.num-steps", "1000000")
    wait_for(first, lambda: (folder / "config.json").exists())
    for more in ([], ["--seed", "1"], ["--overwrite"]):
        status, _, err = finish_here(folder, *more)
        assert status == 2 and err.startswith(
            f"error: `{folder}` is in use by another process; "
        )
    first.terminate()
    first.communicate(timeout=60)
    assert first.returncode == 128 + signal.SIGTERM
    assert json.loads((folder / "config.json").read_text())["seed"] == 0


def test_only_the_logs_of_orbax_are_silenced(tmp_path):
    """Its errors are raised; other libraries log through absl as before."""
    Checkpoints(tmp_path, ExperimentConfig(name="a")).close()
    for path, shown in ((ocp.__file__, False), (grain.__file__, True)):
        record = logging.makeLogRecord({"pathname": path})
        assert bool(logging.getLogger("absl").filter(record)) == shown


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_is_one_line(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine allows no mounts")
    try:
        status, out, err = finish_here(small / "run")
        assert status == 2, out + err
        (line,) = err.splitlines()
        assert "No space left on device" in line and "the same command" in line
    finally:
        subprocess.run(["umount", str(small)], check=True)
