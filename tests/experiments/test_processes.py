# SPDX-License-Identifier: Apache-2.0
"""Processes find each other: started by a real Open MPI, or by address."""

import os
import shutil
import signal
import socket
import subprocess

import numpy as np
import pytest

from experiments.config import ProcessesConfig
from tests.experiments.commands import COMMAND, ROOT, run_here
from tests.experiments.test_launch import children, curve, training, wait_until

pytestmark = pytest.mark.processes

TRAIN = [
    *COMMAND, "train", "configs/digits_dense.py",
    "--train.num-steps", "60", "--train.checkpoint-every", "20",
]  # fmt: skip
MPIRUN = shutil.which("mpirun")


def start(*arguments, by=(), **environment):
    return subprocess.Popen(
        [*by, *TRAIN, *map(str, arguments)],
        cwd=ROOT, env=os.environ | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def refused(*arguments):
    process = start(*arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in err, err
    return err


def start_by_mpi(folder, *arguments):
    """Two processes with two devices each."""
    return start(
        "--workdir", folder, "--processes.detect", *arguments,
        by=[MPIRUN, "--oversubscribe", "-n", "2"],
        JAX_NUM_CPU_DEVICES="2",
        OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )  # fmt: skip


@pytest.mark.skipif(MPIRUN is None, reason="no Open MPI here: apt install openmpi-bin")
def test_open_mpi_is_detected_and_a_signal_to_one_saves_all(tmp_path):
    folder, alone = tmp_path / "run", tmp_path / "alone"
    process = start_by_mpi(folder)
    wait_until(process, folder, 10)
    os.kill(children(process)[1], signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert out.count("Stopped by SIGTERM after step ") == 1, err[-3000:]
    process = start_by_mpi(folder)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0 and "Traceback" not in err, err[-3000:]
    assert "Resuming after step " in out
    assert run_here(*training(alone)).returncode == 0
    np.testing.assert_allclose(curve(folder), curve(alone), rtol=1e-4)
    process = start_by_mpi(folder, "--parallel.mode", "pmap")
    _, err = process.communicate(timeout=60)
    text = "error: `parallel.mode` must be jit or shard_map for 2 processes, got pmap."
    assert text in err and "Traceback" not in err


def test_nothing_to_detect(tmp_path):
    err = refused("--workdir", tmp_path / "run", "--processes.detect")
    assert "was not started by Slurm, Open MPI, Cloud TPU or GKE; start it by" in err
    assert not (tmp_path / "run").exists()


def one_of_two(tmp_path, address, number):
    return [
        "--workdir", tmp_path / "run", "--processes.coordinator-address", address,
        "--processes.num-processes", 2, "--processes.process-id", number,
    ]  # fmt: skip


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        err = refused(*one_of_two(tmp_path, address, 0))
    text = "error: `processes.coordinator_address` must have a free port, got "
    assert f"{text}{address}" in err


def test_waiting_for_others_is_reported_and_ends_by_ctrl_c(tmp_path):
    with start(*one_of_two(tmp_path, "localhost:1", 1)) as process:
        assert "Waiting for the other processes; " in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 128 + signal.SIGINT


@pytest.mark.parametrize("address", ["host", "host:", ":1", "host:x", "host:65536"])
def test_addresses(address):
    with pytest.raises(ValueError, match=r"must be HOST:PORT, got"):
        ProcessesConfig(coordinator_address=address, num_processes=2, process_id=0)
