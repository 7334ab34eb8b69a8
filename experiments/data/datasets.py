# SPDX-License-Identifier: Apache-2.0
"""Data sets by name."""

import dataclasses
from pathlib import Path

from experiments.config import DataConfig
from experiments.data import cifar, digits, idx, image_folder, tfds_folder
from experiments.data.class_names import CLASS_NAMES
from experiments.data.examples import Dataset, first
from experiments.errors import UserError


def load_dataset(config: DataConfig) -> Dataset:
    """Loads the data set that the config names, or lists its files.

    Raises:
        UserError: a file is missing or broken, which the error names, or training and
            test images differ in shape.
    """
    dataset = _load(config)
    names = CLASS_NAMES.get(config.name, dataset.class_names)
    if not names:
        names = tuple(map(str, range(dataset.num_classes)))
    dataset = dataclasses.replace(dataset, class_names=names)
    num, most = config.num_train, len(dataset.train)
    if num is None or num == most:
        return dataset
    if num > most:
        raise UserError(
            f"`data.num_train` must be at most {most}, the number of training "
            f"examples, got {num}."
        )
    return dataclasses.replace(dataset, train=first(dataset.train, num))


def _load(config: DataConfig) -> Dataset:
    """Loads all training examples."""
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
        dataset = idx.load(None if config.path is None else folder, config.name)
    for part, source in (("training", dataset.train), ("test", dataset.test)):
        if len(source) == 0:
            raise UserError(
                f"`data.path` must have {part} examples, but `{folder}` has none."
            )
    shapes = [s.load(0, None)[0].shape for s in (dataset.train, dataset.test)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"`{folder}` must have training and test images of the same shape, got "
            f"{shapes[0]} and {shapes[1]}."
        )
    return dataset
