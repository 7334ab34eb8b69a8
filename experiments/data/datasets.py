# SPDX-License-Identifier: Apache-2.0
"""Data sets by name."""

import dataclasses
from pathlib import Path

from experiments.config import DataConfig
from experiments.data import cifar, digits, idx, image_folder, tfds_folder
from experiments.data.examples import Dataset, first
from experiments.errors import UserError


def load_dataset(config: DataConfig) -> Dataset:
    """Loads, or lists, what the config names.

    Raises:
        UserError: a file is missing or broken; it names the file.
    """
    dataset = _load(config)
    num, there = config.num_train, len(dataset.train)
    if num is None or num == there:
        return dataset
    if num > there:
        raise UserError(f"data.num_train is {num}, but there are {there} examples.")
    return dataclasses.replace(dataset, train=first(dataset.train, num))


def _load(config: DataConfig) -> Dataset:
    """All of it."""
    if config.name == "digits":
        return digits.load()
    folder = Path(config.path or "")
    if config.name == "image_folder":
        dataset = image_folder.load(folder, config.image_size or 0)
    elif config.name == "tfds":
        dataset = tfds_folder.load(folder, config.image_size)
    elif config.name in cifar.VERSIONS:
        dataset = cifar.load(folder, config.name)
    else:
        dataset = idx.load(folder, config.name)
    for part, source in (("training", dataset.train), ("test", dataset.test)):
        if len(source) == 0:
            raise UserError(f"data.path `{folder}` has no {part} examples.")
    return dataset
