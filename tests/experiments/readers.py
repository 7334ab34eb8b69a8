# SPDX-License-Identifier: Apache-2.0
"""What the tests of the readers share: a config, its error, training by the command."""

import pytest

from experiments.config import DataConfig
from experiments.data import load_dataset
from experiments.errors import UserError
from tests.experiments.commands import one_line_error, run_here


def config(name, path, **more):
    return DataConfig(name=name, path=str(path), batch_size=2, **more)


def error_of(call):
    """The error, which is one line unless a name in it is not."""
    with pytest.raises(UserError) as raised:
        call()
    return str(raised.value)


def refusal(name, path, **more):
    """The error of the reader."""
    return error_of(lambda: load_dataset(config(name, path, **more)))


def training(name, path, workdir):
    """Two steps by the real command; image folders are resized to 8 pixels."""
    size = ["--data.image-size", "8"] if name == "image_folder" else []
    return [
        "train", "configs/digits_dense.py", "--workdir", workdir,
        "--data.name", name, "--data.path", path, "--data.batch-size", "2",
        "--train.num-steps", "2", "--parallel.num-devices", "1", *size,
    ]  # fmt: skip


def train(name, path, workdir):
    return run_here(*training(name, path, workdir))


def refused_line(name, path, workdir):
    """What the real command says in place of training."""
    return one_line_error(train(name, path, workdir))
