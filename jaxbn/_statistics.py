# SPDX-License-Identifier: Apache-2.0
"""The statistics of one batch as the computation keeps them, and their derivative."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxbn._lift import (
    Layout,
    Weights,
    compute_dtype,
    positions_that_count,
    weigh,
    zero_where_left_out,
)


class Statistics(NamedTuple):
    """Moments as the computation keeps them: the mean to twice its dtype's precision.

    At a mean of 1e4 standard deviations a float32 mean alone is off by 5e-4 of them.
    """

    mean: Float[Array, "*c"]
    mean_error: Float[Array, "*c"]  # what rounding cut off: the mean is the sum of both
    var: Float[Array, "*c"]
    count: Float[Array, ""]


def batch_statistics(
    x: Float[Array, "*n"], weights: Weights, layout: Layout
) -> Statistics:
    """Returns the statistics of the values of `x` that count, in one pass over `x`."""
    dtype = compute_dtype(x)
    count = _count(weights, layout, dtype)
    pivot = _pivot(x, weights, layout, count)
    shifted, shifted_again = _shifted_twice(x.astype(dtype), pivot, weights, layout)
    per_value = reciprocal(count)
    shift = layout.total(weigh(shifted, weights)) * per_value
    square = layout.total(weigh(lax.square(shifted_again), weights)) * per_value
    var = jnp.maximum(square - lax.square(shift), 0)
    # Where squares overflow, inf - inf would be NaN.
    var = jnp.where(square == jnp.inf, jnp.inf, var)
    mean, mean_error = _two_sum(pivot, shift)
    return Statistics(mean, mean_error, var, count)


def moment_tangents(
    centered: Float[Array, "*n"],
    x_dot: Float[Array, "*n"],
    count: Float[Array, ""],
    weights: Weights,
    layout: Layout,
) -> tuple[Float[Array, "*c"], Float[Array, "*c"]]:
    r"""Returns how mean and variance move with `x`.

    $$\dot\mu = \frac1W \sum_i w_i \dot x_i, \qquad
      \dot v = \frac2W \sum_i w_i (x_i - \mu) \dot x_i, \qquad W = \sum_i w_i$$

    The mean's own movement adds nothing to the variance's: $\sum_i w_i (x_i-\mu) = 0$.
    """
    x_dot = weigh(zero_where_left_out(x_dot, weights), weights)
    per_value = reciprocal(count)
    return (
        layout.total(x_dot) * per_value,
        layout.total(centered * x_dot) * (2 * per_value),
    )


def reciprocal(count: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 / count, and 0 where nothing counts, so that the means of nothing are 0."""
    return jnp.where(count > 0, 1 / jnp.where(count > 0, count, 1), 0)


def _count(weights: Weights, layout: Layout, dtype: np.dtype) -> Float[Array, ""]:
    """How many values, or how much weight, per feature."""
    if weights is None:
        return jnp.asarray(layout.num_values, dtype)
    total = jnp.sum(weights, dtype=dtype)
    repeats = layout._replace(
        shape=tuple(
            size if along == 1 else 1
            for size, along in zip(layout.shape, weights.shape, strict=True)
        )
    ).num_values
    return total * repeats


def _pivot(
    x: Float[Array, "*n"], weights: Weights, layout: Layout, count: Float[Array, ""]
) -> Float[Array, "*c"]:
    """A constant near the mean, subtracted before squaring: the first row that counts.

    Without it the variance is off by about 1e-7 (mean / sd)**2; with it, by as much of
    the pivot's own distance from the mean, rarely more than a few sd and, for one value
    in n, never more than sqrt(n) sd. bfloat16 goes without:
    it resolves no more than mean / sd = 256, and the row would have to be waited for,
    which on TPU keeps the sums from being fused into the convolution that makes `x`.
    """
    dtype = compute_dtype(x)
    if x.dtype == jnp.bfloat16 or x.size == 0:
        return jnp.zeros(layout.features, dtype)
    sizes = [
        size if a in layout.feature_axes else 1 for a, size in enumerate(layout.shape)
    ]
    counts = positions_that_count(weights)
    if counts is None:
        row = lax.slice(x, [0] * x.ndim, sizes)
    else:
        first = jnp.unravel_index(jnp.argmax(counts), counts.shape)
        row = lax.dynamic_slice(x, first, sizes)
        row = jnp.where(count > 0, row, jnp.zeros((), x.dtype))
    row = lax.squeeze(row, layout.reduced_axes).astype(dtype)
    return lax.stop_gradient(row)


def _shifted_twice(
    x: Float[Array, "*n"], pivot: Float[Array, "*c"], weights: Weights, layout: Layout
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """`x` less the pivot, once for each of the two sums.

    XLA:CPU fuses a subtraction into a reduction only where that reduction is its one
    user, and merges equal subtractions first: two spellings save a write and a read of
    `x`. Under a mask the selection is stored in any case, and both sums share it.
    """
    shifted = zero_where_left_out(x - layout.expand(pivot), weights)
    if weights is not None:
        return shifted, shifted
    return shifted, x + layout.expand(-pivot)


def _two_sum(
    a: Float[Array, "*c"], b: Float[Array, "*c"]
) -> tuple[Float[Array, "*c"], Float[Array, "*c"]]:
    """Returns a + b rounded, and what the rounding cut off (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    b_seen = total - a
    error = (a - (total - b_seen)) + (b - b_seen)
    return total, jnp.where(jnp.isfinite(total), error, 0)
