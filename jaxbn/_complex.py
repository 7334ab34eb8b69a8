# SPDX-License-Identifier: Apache-2.0
r"""Complex numbers as pairs of real ones, so that the real computation serves them.

$$\mu = \frac1W \sum_i w_i x_i, \qquad v = \frac1W \sum_i w_i |x_i - \mu|^2$$

The mean is that of the parts, the variance the sum of the variances of the parts.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from jaxbn._lift import Weights
from jaxbn._statistics import Statistics, merge
from jaxbn._types import Moments


def as_pairs(x: Complex[Array, "..."]) -> Float[Array, "... 2"]:
    """Real and imaginary part, along a new last axis."""
    return jnp.stack([x.real, x.imag], axis=-1)


def from_pairs(pairs: Float[Array, "... 2"]) -> Complex[Array, "..."]:
    """The inverse."""
    return lax.complex(pairs[..., 0], pairs[..., 1])


def weights_of_pairs(weights: Weights) -> Weights:
    """Both parts count as much."""
    return None if weights is None else weights[..., None]


def moments_from_pairs(moments: Moments) -> Moments:
    """A complex mean, and one variance for both parts."""
    return Moments(from_pairs(moments.mean), moments.var.sum(-1), moments.count)


def merge_stacked(moments: Moments, axis: int) -> Moments:
    """Merges moments along a stacked axis, real or complex; see `merge_moments`.

    The count may be one for all features, or one for each.
    """
    mean, var, count = moments
    if not jnp.iscomplexobj(mean):
        return merge(Statistics(mean, jnp.zeros_like(mean), var, count), axis).moments
    pairs, shared = as_pairs(mean), jnp.stack([var, jnp.zeros_like(var)], axis=-1)
    per_feature = count.ndim == var.ndim
    if per_feature:
        count = jnp.stack([count, count], axis=-1)
    parts = Statistics(pairs, jnp.zeros_like(pairs), shared, count)
    merged = moments_from_pairs(merge(parts, axis).moments)
    return merged._replace(count=merged.count[..., 0]) if per_feature else merged
