# SPDX-License-Identifier: Apache-2.0
"""Images of any size brought to one: a random part to train on, the middle to test."""

import math

import numpy as np
from PIL import Image

from experiments.data.examples import as_float

AREA = (0.08, 1.0)  # of the image that a random crop has
RATIO = (3 / 4, 4 / 3)  # of its width to its height
MIDDLE = 0.875  # of the shorter side, in evaluation

Box = tuple[float, float, float, float]


def resized(
    image: Image.Image, size: int, rng: np.random.Generator | None
) -> np.ndarray:
    """Returns a part, `size` pixels square; with a generator, a random one."""
    box = _middle(image.size) if rng is None else _random_box(image.size, rng)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return as_float(np.atleast_3d(np.asarray(image)))


def _middle(size: tuple[int, int]) -> Box:
    width, height = size
    side = MIDDLE * min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random_box(size: tuple[int, int], rng: np.random.Generator) -> Box:
    """A part of random area and shape (Szegedy et al. 2015, section 6)."""
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(AREA[0], AREA[1])
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    return _middle(size)
