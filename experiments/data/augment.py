# SPDX-License-Identifier: Apache-2.0
"""Augmentation of one training image."""

import numpy as np

from experiments.config import DataConfig


def augment(
    image: np.ndarray, config: DataConfig, rng: np.random.Generator
) -> np.ndarray:
    """Pads and crops at a random place, and mirrors every second one."""
    if config.crop_padding:
        pad = config.crop_padding
        top, left = rng.integers(0, 2 * pad + 1, 2)
        height, width, _ = image.shape
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        image = padded[top : top + height, left : left + width]
    if config.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    return image
