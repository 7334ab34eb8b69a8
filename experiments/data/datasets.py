# SPDX-License-Identifier: Apache-2.0
"""Data sets by name."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.config import DataConfig
from experiments.data import cifar, digits, idx, image_folder, tfds_folder
from experiments.data.class_names import CLASS_NAMES
from experiments.data.examples import ArraySource, Dataset, Source, first
from experiments.data.images import as_float
from experiments.errors import UserError


def load_dataset(config: DataConfig) -> Dataset:
    """Loads the data set that the config names, or lists its files.

    Raises:
        UserError: a file is missing or broken, which the error names, training and
            test images differ in shape, or a field of the config does not fit them.
    """
    dataset = _load(config)
    names = CLASS_NAMES.get(config.name, dataset.class_names)
    if not names:
        names = tuple(map(str, range(dataset.num_classes)))
    train, test = (
        _first(source, f"data.num_{field}", num, words)
        for source, field, num, words in (
            (dataset.train, "train", config.num_train, "training"),
            (dataset.test, "test", config.num_test, "test"),
        )
    )
    if config.downsample > 1:
        train, test = (_downsampled(part, config.downsample) for part in (train, test))
    return dataclasses.replace(dataset, train=train, test=test, class_names=names)


def _first(source: Source, field: str, num: int | None, words: str) -> Source:
    """Returns the first `num` examples; None: all."""
    most = len(source)
    if num is None or num == most:
        return source
    if num > most:
        raise UserError(
            f"`{field}` must be at most {most}, the number of {words} examples, got "
            f"{num}."
        )
    return first(source, num)


def _downsampled(source: Any, factor: int) -> ArraySource:
    """Returns the examples with the means of squares of pixels."""
    image = as_float(source.image)
    height, width, channels = downsampled(image.shape[1:], factor)
    squares = image.reshape(-1, height, factor, width, factor, channels)
    return ArraySource(squares.mean((2, 4)), source.label)


def downsampled(shape: tuple[int, ...], factor: int) -> tuple[int, int, int]:
    """Returns the shape of a smaller image.

    Raises:
        UserError: the factor does not divide height and width.
    """
    height, width, channels = shape
    if height % factor or width % factor:
        raise UserError(
            f"`data.downsample` must be a divisor of height and width, {height} and "
            f"{width}, got {factor}."
        )
    return height // factor, width // factor, channels


def _load(config: DataConfig) -> Dataset:
    """Loads all training examples."""
    if config.name == "digits":
        return digits.load()
    folder = idx.installed(config.name) if config.path is None else Path(config.path)
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
            raise UserError(
                f"`data.path` must have {part} examples, but `{folder}` has none."
            )
    # Reads an image of each part: a broken one is named before anything else is.
    shapes = [s.load(0, None)[0].shape for s in (dataset.train, dataset.test)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"`{folder}` must have training and test images of the same shape, got "
            f"{shapes[0]} and {shapes[1]}."
        )
    return dataset
