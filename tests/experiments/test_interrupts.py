# SPDX-License-Identifier: Apache-2.0
"""Signals, dead parents, readers that go away: as real processes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.run.folder import latest_step
from tests.experiments.commands import COMMAND, ROOT, run_here
from tests.experiments.test_launch import children

pytestmark = pytest.mark.processes
DENSE = ["train", "configs/digits_dense.py"]
LONG = ["--train.num-steps", "1000000", "--train.log-every", "5"]
WITHIN = 3 if os.environ.get("STRICT") else 15
"""Seconds from the signal to the end; more than is promised, for a machine at work."""


def start(*arguments, **more):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


def wait_for(happened, seconds=120):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_lines(path):
    return path.exists() and path.stat().st_size > 0


def end(process, *numbers):
    """Sends the signals; returns all that was printed."""
    sent = time.monotonic()
    for number in numbers:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - sent < WITHIN
    assert "Traceback" not in out + err
    return out, err


SLOW = """
import sys, time
{imports}
print("here", flush=True)
time.sleep(60)
"""


def test_ctrl_c_in_a_config(tmp_path):
    """While Python reads a config, which may import what takes time."""
    config = tmp_path / "slow.py"
    config.write_text(SLOW.format(imports="import jax"))
    with start("train", config) as process:
        assert process.stdout.readline() == "here\n"
        out, err = end(process, signal.SIGINT)
    assert process.returncode == 130 and not err
    assert out == "Interrupted; nothing is lost.\n"


def test_ctrl_c_before_the_first_step(tmp_path):
    """The compiler is at work, in C++, or data are read; nothing is claimed."""
    folder = tmp_path / "run"
    with start(*DENSE, *LONG, "--workdir", folder) as process:
        wait_for(folder.exists)
        out, err = end(process, signal.SIGINT)
    assert process.returncode == 130 and not err
    assert "Interrupted before the first step; nothing is lost." in out


def test_ctrl_c_twice_names_the_checkpoint(tmp_path):
    """At once: the second comes before the step is saved, or the first has ended it."""
    folder = tmp_path / "run"
    more = "--workdir", folder, "--train.checkpoint-every", 20
    with start(*DENSE, *LONG, *more) as process:
        wait_for(lambda: latest_step(folder) is not None)
        out, err = end(process, signal.SIGINT, signal.SIGINT)
    assert process.returncode == 130 and not err
    assert f"{folder} holds the run up to " in out


def test_ctrl_c_under_launch_ends_within_seconds(tmp_path):
    """Its message names the command that resumes: not this one, which starts again."""
    folder = tmp_path / "run"
    with start(
        "launch", "--num-processes", 2, *DENSE, *LONG, "--workdir", folder,
        "--parallel.num-devices", 2, "--overwrite",
    ) as process:  # fmt: skip
        wait_for(lambda: has_lines(folder / "metrics.jsonl"))
        out, err = end(process, signal.SIGINT)
    assert process.returncode == 130 and "error" not in err
    assert "the same command without --overwrite resumes it." in out


def test_a_process_lost_in_a_step_is_named_so(tmp_path):
    folder = tmp_path / "run"
    status, err = end_of_the_other(
        folder, 10**5, after=lambda: has_lines(folder / "metrics.jsonl"), within=60
    )
    assert status == 3 and "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: process 0 lost another process (")


def test_a_process_lost_in_a_save_is_named_so(tmp_path):
    """And not taken for a disk that is full; each process saves after each step.

    The other may be waiting in Orbax, at a barrier of JAX's coordination service, which
    ends in an abort after 100 seconds: so it did in 1 of 5 kills before there was
    `wait_together`, and in 1 of 67 since, which is why the test may try again.
    """
    for attempt in range(2):
        folder = tmp_path / f"run{attempt}"
        status, err = end_of_the_other(
            folder, 1, after=lambda f=folder: latest_step(f) is not None, within=180
        )
        if status == 3:
            break
    assert status == 3 and "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: process 0 lost another process (")
    assert "the same command resumes after step " in line


def end_of_the_other(folder, checkpoint_every, *, after, within):
    """Kills one of two processes; the other's exit status, and what it says."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    more = [
        "--workdir", folder, "--train.checkpoint-every", checkpoint_every,
        "--parallel.num-devices", 2, "--processes.num-processes", 2,
        "--processes.coordinator-address", address,
    ]  # fmt: skip
    first, second = (
        start(*DENSE, *LONG, *more, "--processes.process-id", number)
        for number in range(2)
    )
    wait_for(after)
    second.kill()
    second.communicate()
    _, err = first.communicate(timeout=within)
    return first.returncode, err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_no_child_outlives_its_launcher(number, tmp_path):
    folder = tmp_path / "run"
    process = start(
        "launch", "--num-processes", 2, *DENSE, *LONG, "--workdir", folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: has_lines(folder / "metrics.jsonl"))
    pids = children(process)
    assert len(pids) == 2
    process.send_signal(number)
    process.wait(timeout=60)
    wait_for(lambda: not any(map(lives, pids)), 60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 129)


def lives(pid):
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except FileNotFoundError:
        return False


def test_no_timed_process_outlives_bench(tmp_path):
    arguments = "configs/bench_layer.py", "--rounds", 100000, "--workdir", tmp_path
    process = start("bench", *arguments)
    wait_for(lambda: children(process))
    (pid,) = children(process)
    process.kill()
    process.communicate()
    wait_for(lambda: not lives(pid), 60)


def test_two_processes_give_one_message(tmp_path):
    """Of an error that each finds, and that only the data show."""
    with start(
        "launch", "--num-processes", 2, *DENSE, "--workdir", tmp_path / "run",
        "--data.batch-size", 100000,
    ) as process:  # fmt: skip
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.count("error: ") == 1 and "`data.batch_size` must be at most" in err


def test_a_closed_pipe_and_ascii_stop_no_training(tmp_path):
    """`| head -1` of a run whose reader has gone before the second line."""
    folder = tmp_path / "run"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    arguments = [*DENSE, "--train.num-steps", 20, "--workdir", folder]
    with start(*arguments, env=environment) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0 and (folder / "report.html").exists()
    report = [*COMMAND, "report", str(folder), "--output", str(tmp_path / "page.html")]
    closed = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *report],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (closed.returncode, closed.stderr) == (0, "")
    shown = subprocess.run(report, cwd=ROOT, env=environment, capture_output=True)
    assert shown.returncode == 0 and not shown.stderr and shown.stdout.isascii()


def test_other_letters_in_the_c_locale(tmp_path):
    """A path that this locale cannot decode stands in the report's page."""
    environment = {
        **os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
    }  # fmt: skip
    run_here(*DENSE, "--train.num-steps", 2, "--workdir", tmp_path / "run")
    page = tmp_path / "größe.html"
    shown = subprocess.run(
        [*COMMAND, "report", str(tmp_path / "run"), "--output", str(page)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--output" in page.read_text("utf-8")


STUB = """
import pathlib, sys, time
if sys.argv[1] == "venv":
    pathlib.Path("begun").open("a").write("x")
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_two_makes_set_up_once(tmp_path):
    """With a stub for uv; one that is interrupted leaves no lock."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "stub.py").write_text(STUB)
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(f'#!/bin/sh\nexec "{sys.executable}" stub.py "$@"\n')
    uv.chmod(0o755)
    begun = tmp_path / "begun"
    # The suite itself may run under make, whose variables would change this one; make
    # exports those of its command line, VENV among them.
    of_make = ("MAKE", "MFLAGS", "VENV")
    env = {k: v for k, v in os.environ.items() if not k.startswith(of_make)}
    env["PATH"] = f"{uv.parent}:{env['PATH']}"

    def make():
        return subprocess.Popen(
            ["make", f"PYTHON={sys.executable}", ".venv/.experiments"],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    with make() as first:
        assert "Setting up .venv for 'experiments'" in first.stdout.readline()
        wait_for(begun.exists)
        os.killpg(first.pid, signal.SIGINT)  # as a terminal does
    assert first.returncode != 0
    with make() as first:
        assert "Setting up .venv for 'experiments'" in first.stdout.readline()
        with make() as second:
            line = second.stdout.readline()
            assert line == "Another make sets up .venv; this one waits for it\n"
            (tmp_path / "go").touch()
            assert (second.stdout.read(), second.wait()) == ("", 0)
    assert first.returncode == 0 and begun.read_text() == "xx"
