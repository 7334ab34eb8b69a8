# SPDX-License-Identifier: Apache-2.0
"""What happens to an image on its way to a batch: scaled, resized, augmented."""

import math

import numpy as np
from PIL import Image

from experiments.config import DataConfig

AREA = (0.08, 1.0)  # of a random crop, as a fraction of the image
RATIO = (3 / 4, 4 / 3)  # of its width to its height
MIDDLE = 0.875  # of the shorter side, in evaluation

Box = tuple[float, float, float, float]


def as_float(image: np.ndarray) -> np.ndarray:
    """Returns float32 in [0, 1], from bytes or what is float32 already."""
    return image.astype(np.float32) / 255 if image.dtype == np.uint8 else image


def resized(
    image: Image.Image, size: int, rng: np.random.Generator | None
) -> np.ndarray:
    """Returns a square of `size` pixels: a random crop with `rng`, else the middle."""
    box = _middle(image.size) if rng is None else _random_box(image.size, rng)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return as_float(np.atleast_3d(np.asarray(image)))


def _middle(size: tuple[int, int]) -> Box:
    width, height = size
    side = MIDDLE * min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random_box(size: tuple[int, int], rng: np.random.Generator) -> Box:
    """Returns a box of random area and shape (Szegedy et al. 2015, section 6)."""
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(AREA[0], AREA[1])
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    return _middle(size)


def augment(
    image: np.ndarray, config: DataConfig, rng: np.random.Generator
) -> np.ndarray:
    """Pads and crops at a random place, and mirrors every second image."""
    if config.crop_padding:
        pad = config.crop_padding
        top, left = rng.integers(0, 2 * pad + 1, 2)
        height, width, _ = image.shape
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        image = padded[top : top + height, left : left + width]
    if config.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    return image
