# SPDX-License-Identifier: Apache-2.0
"""scikit-learn's handwritten digits: 1,797 scans of 8x8, shipped with it."""

import functools

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from experiments.data.examples import ArraySource, Dataset

SHAPE = (8, 8, 1)
"""Height, width and channels."""
NUM_CLASSES = 10


@functools.cache
def load() -> Dataset:
    """Holds out a stratified fifth, always the same."""
    pixels, target = load_digits(return_X_y=True)
    image = (np.asarray(pixels) / 16).astype(np.float32).reshape(-1, *SHAPE)
    label = np.asarray(target).astype(np.int32)
    train, test = train_test_split(
        np.arange(len(label)), test_size=0.2, stratify=label, random_state=0
    )
    return Dataset(
        ArraySource(image[train], label[train]),
        ArraySource(image[test], label[test]),
        NUM_CLASSES,
    )
