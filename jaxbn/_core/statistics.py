# SPDX-License-Identifier: Apache-2.0
"""The statistics of one batch as the computation keeps them, and their derivative."""

from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxbn._core import xla
from jaxbn._core.collectives import Sync, gather_across, sum_across
from jaxbn._core.layout import (
    Layout,
    Weights,
    compute_dtype,
    positions_that_count,
    weigh,
    zero_where_left_out,
)
from jaxbn._core.types import Moments

Values = TypeVar("Values", Array, np.ndarray[Any, np.dtype[Any]])
"""On the device, or on the host."""


class Statistics(NamedTuple):
    """Moments as the computation keeps them: the mean as an anchor and a shift.

    At a mean of 1e4 standard deviations a float32 mean alone is off by 5e-4 of them,
    but `(x - anchor) - shift` is right to rounding. The anchor comes from the data
    without arithmetic: a sum of the two, rounded, may differ in the last bit between
    two fusions of one program, and its rounding error would then belong to another sum.
    """

    anchor: Float[Array, "*gc"]
    shift: Float[Array, "*gc"]
    var: Float[Array, "*gc"]
    count: Float[Array, "*g"]

    @property
    def moments(self) -> Moments:
        """The moments as users know them."""
        return Moments(self.anchor + self.shift, self.var, self.count)


def batch_statistics(
    x: Float[Array, "*n"], weights: Weights, layout: Layout
) -> Statistics:
    """Returns the statistics of the values of `x` that count, in one pass over `x`.

    They are of all shards where `layout.sync` is given, stacked by group where it says
    so.
    """
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
    local = Statistics(xla.settled(pivot), xla.settled(shift), var, count)
    return local if layout.sync is None else _across_shards(local, layout.sync)


def _across_shards(local: Statistics, sync: Sync) -> Statistics:
    """Returns the statistics of all shards together, by one collective."""
    vectors = [jnp.ravel(v) for v in local[:3]]
    rows = gather_across(jnp.concatenate([*vectors, local.count[None]]), sync)
    count = rows[..., -1]
    anchor, shift, var = (
        part.reshape(*count.shape, *local.var.shape)
        for part in jnp.split(rows[..., :-1], 3, axis=-1)
    )
    return merge(Statistics(anchor, shift, var, count), count.ndim - 1)


def merge(parts: Statistics, axis: int) -> Statistics:
    """Merges statistics stacked along an axis; parts of count 0 add nothing."""
    count = jnp.sum(parts.count, axis)
    share = parts.count * jnp.expand_dims(reciprocal(count), axis)
    share = expand_last(share, parts.var.ndim)
    alive = share > 0
    # An anchor of one of the parts keeps the small differences between the means.
    anchor = jnp.max(
        jnp.where(alive, parts.anchor, -jnp.inf), axis, keepdims=True, initial=-jnp.inf
    )
    anchor = lax.stop_gradient(jnp.where(anchor == -jnp.inf, 0, anchor))
    offset = jnp.where(alive, (parts.anchor - anchor) + parts.shift, 0)
    shift, var = merge_about(share, offset, parts.var, axis)
    return Statistics(jnp.squeeze(anchor, axis), shift, var, count)


def merge_about(
    share: Values,
    offset: Values,
    var: Values,
    axis: int,
    *,
    xp: ModuleType = jnp,
) -> tuple[Values, Values]:
    r"""Merges parts whose means are given by their offsets from one common value.

    $$s = \sum_k p_k s_k, \qquad v = \sum_k p_k \left(v_k + |s_k - s|^2
    ight)$$

    with the parts' shares $p_k$ of the count, offsets $s_k$ and variances $v_k$. The
    device merges float32 by `jax.numpy`, the host float64 by NumPy, which `xp` names.

    References:
        Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance",
        equation 2.1, for any number of parts.
    """
    shift = xp.sum(share * offset, axis, keepdims=True)
    distance = offset - shift
    spread = xp.where(share > 0, var + (distance * distance.conj()).real, 0)
    return xp.squeeze(shift, axis), xp.sum(share * spread, axis)


def moment_tangents(
    centered: Float[Array, "*n"],
    x_dot: Float[Array, "*n"],
    count: Float[Array, "*g"],
    weights: Weights,
    layout: Layout,
) -> tuple[Float[Array, "*gc"], Float[Array, "*gc"]]:
    r"""Returns the tangents of mean and variance.

    $$\dot\mu = \frac1W \sum_i w_i \dot x_i, \qquad
      \dot v = \frac2W \sum_i w_i (x_i - \mu) \dot x_i, \qquad W = \sum_i w_i$$

    The mean's tangent adds nothing to the variance's, since $\sum_i w_i (x_i-\mu) = 0$.
    """
    x_dot = weigh(zero_where_left_out(x_dot, weights), weights)
    sums = layout.total(x_dot), layout.total(centered * x_dot)
    if layout.sync is not None:
        packed = jnp.concatenate([jnp.ravel(s) for s in sums])
        packed = sum_across(packed, layout.sync)
        shape = (*count.shape, *layout.features)
        sums = tuple(s.reshape(shape) for s in jnp.split(packed, 2, axis=-1))
    per_value = expand_last(reciprocal(count), count.ndim + len(layout.features))
    return sums[0] * per_value, sums[1] * (2 * per_value)


def reciprocal(count: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 / count, and 0 where nothing counts, so that the means of nothing are 0."""
    return jnp.where(count > 0, 1 / jnp.where(count > 0, count, 1), 0)


def expand_last(x: Float[Array, "*g"], ndim: int) -> Float[Array, "..."]:
    """Appends axes of size 1, up to a rank."""
    return lax.expand_dims(x, tuple(range(x.ndim, ndim)))


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
    in n, never more than sqrt(n) sd.
    """
    dtype = compute_dtype(x)
    if xla.needs_no_pivot(x.dtype) or x.size == 0:
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
    return xla.broadcast_once(lax.stop_gradient(row))


def _shifted_twice(
    x: Float[Array, "*n"], pivot: Float[Array, "*c"], weights: Weights, layout: Layout
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """`x` less the pivot, once for each of the two sums.

    Under a mask the selection is stored in any case, and both sums share it.
    """
    shifted = zero_where_left_out(x - layout.expand(pivot), weights)
    if weights is not None:
        return shifted, shifted
    return shifted, xla.subtract_again(x, pivot, layout.expand)
