# SPDX-License-Identifier: Apache-2.0
"""Corruptions of images with values in [0, 1], NHWC, by severity from 0 to 5.

The kinds are those of Hendrycks & Dietterich 2019 (https://arxiv.org/abs/1903.12261)
that make sense on 8x8 pixels, with strengths to match.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage


def noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of standard deviation 0.1 to 0.5, not clipped."""
    return image + rng.normal(0, 0.1 * severity, image.shape)


def blur(image: np.ndarray, severity: int, _: np.random.Generator) -> np.ndarray:
    """A Gaussian filter of 0.3 to 1.5 pixels."""
    sigma = 0.3 * severity
    return ndimage.gaussian_filter(image, (0, sigma, sigma, 0), mode="constant")


def contrast(image: np.ndarray, severity: int, _: np.random.Generator) -> np.ndarray:
    """Towards the mean of each image, 0.8 down to 0.1 of the difference remaining."""
    left = (0.8, 0.6, 0.4, 0.2, 0.1)[severity - 1]
    mean = image.mean((1, 2), keepdims=True)
    return mean + left * (image - mean)


def shift(image: np.ndarray, severity: int, _: np.random.Generator) -> np.ndarray:
    """Brighter by 0.2 to 1.0 everywhere, not clipped."""
    return image + 0.2 * severity


CORRUPTIONS: dict[str, Callable[..., np.ndarray]] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "shift": shift,
}


def corrupt(image: np.ndarray, kind: str, severity: int, seed: int) -> np.ndarray:
    """Returns float32 images, unchanged at severity 0; a seed fixes the noise."""
    if severity == 0:
        return image.astype(np.float32)
    rng = np.random.default_rng(seed)
    return CORRUPTIONS[kind](image, severity, rng).astype(np.float32)
