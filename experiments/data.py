# SPDX-License-Identifier: Apache-2.0
"""The examples: images as float32 in [0, 1], NHWC, and labels as int32."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Batch(NamedTuple):
    """Some examples: images `(b, h, w, c)`, labels `(b,)`."""

    image: np.ndarray | jax.Array
    label: np.ndarray | jax.Array


class Dataset(NamedTuple):
    """Training and test examples."""

    train: Batch
    test: Batch
    num_classes: int


def load_dataset(name: str) -> Dataset:
    """Loads a data set by the name it has in `DataConfig`."""
    return {"digits": _load_digits}[name]()


def _load_digits() -> Dataset:
    """1,797 scans of 8x8; a stratified fifth, always the same, is held out."""
    pixels, target = load_digits(return_X_y=True)
    image = (np.asarray(pixels) / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    label = np.asarray(target).astype(np.int32)
    train, test = train_test_split(
        np.arange(len(label)), test_size=0.2, stratify=label, random_state=0
    )
    return Dataset(
        Batch(image[train], label[train]), Batch(image[test], label[test]), 10
    )


def order(num_examples: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Yields the indices of batches for ever, one shuffled epoch after the other.

    None is left out: a batch may end one epoch and begin the next, so that all have the
    same size.
    """
    rng = np.random.default_rng(seed)
    waiting = np.empty(0, np.int64)
    while True:
        while len(waiting) < batch_size:
            waiting = np.concatenate([waiting, rng.permutation(num_examples)])
        chosen, waiting = waiting[:batch_size], waiting[batch_size:]
        yield chosen


def batches(examples: Batch, batch_size: int, seed: int) -> Iterator[Batch]:
    """Yields batches in that order."""
    for chosen in order(len(examples.label), batch_size, seed):
        yield Batch(examples.image[chosen], examples.label[chosen])
