# SPDX-License-Identifier: Apache-2.0
"""Values that no machine, library or file system takes: one line, and no hang."""

import os
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.experiments.commands import one_line_error, run_here

DENSE = ["train", "digits_dense", "--dry-run"]

REFUSED = {
    "memory": (["--model.hidden", 1000000, 1000000], "must fit into memory"),
    "hidden": (["--model.hidden", 2**31], "`model.hidden` must be < 2147483648, got"),
    "layers": (["--model.hidden", *[1] * 1001], "must be at most 1000 numbers, got"),
    "steps": (["--train.num-steps", 2**31], "`train.num_steps` must be < 2147483648"),
    "epochs": (["--train.num-epochs", 1e30], "`train.num_steps` must be < 2147483648"),
    "warmup": (["--optimizer.warmup-steps", 10**400], "must be < 2147483648, got"),
    "rate": (
        ["--optimizer.learning-rate", 1e308],
        "`optimizer.learning_rate` must be at most 3.4e+38, which float32 holds, got",
    ),
    "padding": (
        ["--data.crop-padding", 8],
        "`data.crop_padding` must be less than 8, the smaller side of an image, got 8",
    ),
    "threads": (["--data.num-threads", 100000], "`data.num_threads` must be at most"),
    "devices": (
        ["--parallel.num-devices", 10**6, "--data.batch-size", 10**6],
        "`parallel.num_devices` must be at most 256 in each process, got 1000000.",
    ),
    "name": (["--name", "a\nb"], "`name` must be a plain folder name, got 'a\\nb'."),
    "dot": (["--name", "."], "`name` must be a plain folder name, got '.'."),
    "bytes": (["--workdir", "/tmp/\udcff\n"], "`--workdir` must be printable text"),
    "line": (["--init", "/tmp/a\nb"], "got `/tmp/a\\nb`, which does not exist."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    arguments, answer = REFUSED[case]
    folder = [] if case in ("name", "dot", "bytes") else ["--workdir", tmp_path / "run"]
    assert answer in one_line_error(run_here(*DENSE, *folder, *arguments))


WIDE = ["--model.name", "conv", "--model.convolution", "patches"]
TOO_LARGE = {
    "an evaluation": (["--model.hidden", 2000], "make model.hidden smaller"),
    "a training step": (
        ["--model.hidden", 100, "--data.batch-size", 1400],
        "make data.batch_size or model.hidden smaller",
    ),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_activations_that_do_not_fit(tmp_path, monkeypatch, what):
    """On a machine of 100 MB, where parameters and optimizer do."""
    arguments, fix = TOO_LARGE[what]
    real, size = os.sysconf, {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 10**8}
    monkeypatch.setattr(os, "sysconf", lambda name: size.get(name) or real(name))
    folder = tmp_path / "run"
    command = [*DENSE, "--workdir", folder, "--parallel.num-devices", 1]
    line = one_line_error(run_here(*command, *WIDE, *arguments))
    assert line.startswith(f"error: {what} needs ")
    assert "of it for temporary arrays, but this machine has 100.0 MB" in line
    assert fix in line and not folder.exists()


def test_the_largest_seed(tmp_path):
    """It does not fit into int32."""
    arguments = "--workdir", tmp_path / "run", "--seed", 2**32 - 1
    result = run_here(*DENSE, *arguments)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "run"
    result = run_here(
        "train", "digits_dense", "--workdir", folder, "--train.num-steps", 1
    )
    assert result.returncode == 0, result.stderr
    return folder / "best.safetensors"


KERNEL = "params.Dense_0.kernel"
FOREIGN = {
    "whole numbers": (lambda a: {n: v.astype(np.int8) for n, v in a.items()}, "int8."),
    "too large": (
        lambda a: {n: v.astype(np.float64) * 1e300 for n, v in a.items()},
        "`--init` must be finite in float32, but ",
    ),
    "clash": (
        lambda a: {**a, "params": a[KERNEL]},
        "cannot be read as safetensors: `params` is an array, and a part of",
    ),
    "extra": (lambda a: {**a, "extra": a[KERNEL]}, "it has also extra."),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_init_from_arrays_of_another_kind(tmp_path, weights, case):
    change, answer = FOREIGN[case]
    path = tmp_path / "other.safetensors"
    save_file(change(load_file(weights)), path)
    line = one_line_error(run_here(*DENSE, "--workdir", tmp_path / "a", "--init", path))
    assert answer in line


def test_init_from_damaged_files(tmp_path, weights):
    """A header that claims more than the file holds takes no memory."""
    held, path = weights.read_bytes(), tmp_path / "other.safetensors"
    for damaged in (struct.pack("<Q", 2**60) + held[8:], held[:-100], b""):
        path.write_bytes(damaged)
        result = run_here(*DENSE, "--workdir", tmp_path / "a", "--init", path)
        assert "cannot be read as safetensors: " in one_line_error(result)
