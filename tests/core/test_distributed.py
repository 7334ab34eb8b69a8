# SPDX-License-Identifier: Apache-2.0
"""Several real processes train as one: ragged shards, and in each step an empty one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.core import distributed_worker as worker

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


def start(module, process, num_processes, port, file):
    arguments = [process, num_processes, port, file]
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_processes(num_processes, folder, module="tests.core.distributed_worker"):
    """The leaves of what each process ends with."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    files = [folder / f"{k}.npz" for k in range(num_processes)]
    processes = [
        start(module, k, num_processes, port, file) for k, file in enumerate(files)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=180)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()
    return [list(np.load(file).values()) for file in files]


@pytest.fixture(scope="module")
def alone():
    """The leaves of the run on one device, of exactly the examples that count."""
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        results = {dtype: worker.train_alone(dtype) for dtype in worker.DTYPES}
        return jax.tree.map(np.asarray, results)


def test_processes_train_as_one(alone, tmp_path):
    ended = run_processes(4, tmp_path)
    expected = jax.tree.leaves(alone)
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(alone)]
    for first, *others in zip(*ended, strict=True):
        for other in others:  # the processes agree, bit for bit
            np.testing.assert_array_equal(first, other)
    # A sum of n values, in another order, loses about sqrt(n) units; and so each step.
    values = worker.COUNTS.sum() * 8 * 8
    units = worker.STEPS * np.sqrt(values)
    for path, got, leaf in zip(paths, ended[0], expected, strict=True):
        assert got.dtype == leaf.dtype, path
        allowed = units * np.finfo(leaf.dtype).eps * np.max(np.abs(leaf))
        np.testing.assert_allclose(got, leaf, rtol=0, atol=allowed, err_msg=path)
