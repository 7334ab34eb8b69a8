# SPDX-License-Identifier: Apache-2.0
r"""Complex numbers as pairs of real numbers, for which the real computation serves.

$$\mu = \frac1W \sum_i w_i x_i, \qquad v = \frac1W \sum_i w_i |x_i - \mu|^2$$

The mean is the pair of the parts' means, the variance the sum of their variances.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from jaxbn._core.layout import Batch, Weights
from jaxbn._core.types import Moments


def as_pairs(x: Complex[Array, "..."]) -> Float[Array, "... 2"]:
    """Real and imaginary part, along a new last axis."""
    return jnp.stack([x.real, x.imag], axis=-1)


def from_pairs(pairs: Float[Array, "... 2"]) -> Complex[Array, "..."]:
    """The inverse."""
    return lax.complex(pairs[..., 0], pairs[..., 1])


def batch_as_pairs(batch: Batch) -> Batch:
    """A complex batch without its residual: both parts of a number count as it does."""
    weights = weights_of_pairs(batch.weights)
    return Batch(as_pairs(batch.x), weights, None, batch.segments)


def weights_of_pairs(weights: Weights) -> Weights:
    """The weights with an axis of size 1 for the two parts."""
    return None if weights is None else weights[..., None]


def moments_from_pairs(moments: Moments) -> Moments:
    """A complex mean, and one variance for both parts."""
    mean, var, count = moments
    if count.ndim == var.ndim:  # one for each feature, the same for both parts
        count = count[..., 0]
    return Moments(from_pairs(mean), var.sum(-1), count)
