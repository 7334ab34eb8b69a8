# SPDX-License-Identifier: Apache-2.0
"""Convolution as a product of matrices.

XLA's convolutions of small images take a CPU several times as long.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def convolve_by_patches(
    image: Float[Array, "b h w c"], kernel: Float[Array, "m n c d"], *_: Any, **__: Any
) -> Float[Array, "b h w d"]:
    """For `flax.linen.Conv`: odd kernels, stride 1, padding `SAME`, nothing else."""
    m, n, c, d = kernel.shape
    height, width = image.shape[1:3]
    padded = jnp.pad(image, ((0, 0), (m // 2, m // 2), (n // 2, n // 2), (0, 0)))
    shifted = [
        padded[:, i : i + height, j : j + width] for i in range(m) for j in range(n)
    ]
    return jnp.concatenate(shifted, -1) @ kernel.reshape(m * n * c, d)
