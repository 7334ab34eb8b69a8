# SPDX-License-Identifier: Apache-2.0
"""The statistics of one batch as the computation keeps them, and their derivative."""

from functools import partial
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxbn._core import xla
from jaxbn._core.affine import center
from jaxbn._core.collectives import of_own_group, own, sum_together
from jaxbn._core.layout import (
    Layout,
    Segments,
    Weights,
    compute_dtype,
    weigh,
    zero_where_left_out,
)
from jaxbn._core.meshes import vary_like
from jaxbn._core.types import Moments

Values = TypeVar("Values", Array, np.ndarray[Any, np.dtype[Any]])
"""On the device, or on the host."""

LARGE_MEAN = 25
"""Where the square of a mean is this many variances, sums are taken about the mean."""


class Statistics(NamedTuple):
    """Moments as the computation keeps them: the mean as an anchor and a shift.

    At a mean of 1e4 standard deviations a float32 mean alone is off by 5e-4 of them,
    but `(x - anchor) - shift` is right to rounding.
    """

    anchor: Float[Array, "*gc"]
    shift: Float[Array, "*gc"]
    var: Float[Array, "*gc"]
    count: Float[Array, "..."]

    @property
    def moments(self) -> Moments:
        """The moments as users know them."""
        return Moments(self.anchor + self.shift, self.var, self.count)


@partial(jax.custom_jvp, nondiff_argnames=("layout", "epsilon"))
def batch_statistics(
    x: Float[Array, "*n"],
    weights: Weights,
    segments: Segments,
    layout: Layout,
    epsilon: float,
) -> Statistics:
    """Returns the statistics of the values of `x` that count, those of each segment.

    They are of all shards where `layout.sync` is given, stacked by group where it says
    so. The variance is right to rounding as a part of `var + epsilon`.
    """
    by_sums = partial(_by_sums, layout=layout, epsilon=epsilon)
    if compute_dtype(x) == jnp.float64:
        statistics = by_sums(x, weights, segments)
    else:
        by_double_sums = partial(_by_double_sums, layout=layout)
        arguments = x, weights, segments
        statistics = xla.where_double_is_fast(by_double_sums, by_sums, *arguments)
    sync = layout.sync
    if sync is not None and sync.stacked:
        return statistics
    vectors, (count,) = statistics[:3], statistics[3:]
    return Statistics(*of_own_group(vectors, sync), *of_own_group((count,), sync))


@batch_statistics.defjvp
def _batch_statistics_jvp(
    layout: Layout,
    epsilon: float,
    primals: tuple[Float[Array, "*n"], Weights, Segments],
    tangents: tuple[Float[Array, "*n"], Any, Any],
) -> tuple[Statistics, Statistics]:
    (x, weights, segments), x_dot = primals, tangents[0]
    statistics = batch_statistics(x, weights, segments, layout, epsilon)

    def tangent(
        x: Float[Array, "*n"],
        weights: Weights,
        segments: Segments,
        statistics: Statistics,
        x_dot: Float[Array, "*n"],
    ) -> Statistics:
        at = partial(layout.at_examples, segments=segments)
        anchor, shift = map(at, own(statistics[:2], layout.sync))
        centered = zero_where_left_out(center(x, anchor, shift, layout), weights)
        x_dot = layout.zero_in_no_segment(x_dot.astype(centered.dtype), segments)
        mean_dot, half_dot = moment_tangents(
            centered, x_dot, statistics.count, weights, segments, layout
        )
        unmoved = jnp.zeros_like(mean_dot), jnp.zeros_like(statistics.count)
        return Statistics(mean_dot, unmoved[0], 2 * half_dot, unmoved[1])

    # Reverse mode keeps `x`, and centers it again.
    tangent = jax.checkpoint(tangent, prevent_cse=False)
    return statistics, tangent(x, weights, segments, statistics, x_dot)


def _by_sums(
    x: Float[Array, "*n"],
    weights: Weights,
    segments: Segments,
    *,
    layout: Layout,
    epsilon: float,
) -> Statistics:
    r"""The statistics by sums of $x$ and $x^2$, and of $x - \mu$ where those lose.

    The variance by the first sums is a difference of large numbers where the mean is
    large: it is off by about 1e-7 (mean / sd)**2. Where that matters, for any feature,
    the sums are taken once more, about the mean: right for any order of the values.
    """
    sync, at = layout.sync, partial(layout.at_examples, segments=segments)
    values = zero_where_left_out(x.astype(compute_dtype(x)), weights)
    sums = (
        layout.total(weigh(values, weights), segments),
        layout.total(weigh(lax.square(values), weights), segments),
    )
    first, second, count = _of_all_shards(sums, weights, segments, layout)
    share = share_of_one(count, weights, layout, first.ndim)
    mean, mean_square = first * share, second * share
    var = _variance(mean, mean_square)
    right = lax.square(mean) <= LARGE_MEAN * (var + epsilon)
    right = jnp.all(right & jnp.isfinite(mean_square))
    # Where a sum overflows, the first two turns find the mean.
    turns = jnp.where(right, 0, jnp.where(jnp.all(jnp.isfinite(mean)), 1, 3))

    def about_the_mean(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        anchor, shift, var, turns = carry
        mean = anchor + shift
        about = jnp.where(jnp.isfinite(mean), mean, 0)
        (pivot,) = of_own_group((about,), sync)
        (own_count,) = of_own_group((count,), sync)
        centered = zero_where_left_out(center(x, at(pivot), None, layout), weights)
        again = centered
        if weights is None:
            again = xla.subtract_again(x.astype(pivot.dtype), at(pivot), layout.expand)
        # Sums of parts of a mean: none overflows whose mean does not.
        own_share = share_of_one(own_count, weights, layout, 0)
        if isinstance(own_share, Array) and own_share.ndim:  # of features, segments
            own_share = layout.expand(at(expand_last(own_share, pivot.ndim)))
        parts = centered * own_share, lax.square(again) * own_share
        sums = tuple(layout.total(weigh(part, weights), segments) for part in parts)
        distance, mean_square = sum_together(sums, sync)
        # Near the largest number `x` less its mean may overflow where its sum does not.
        better = jnp.isfinite(distance)
        return (
            jnp.where(better, about, anchor),
            jnp.where(better, distance, shift),
            jnp.where(better, _variance(distance, mean_square), var),
            turns - 1,
        )

    # Mostly the loop does not run. Under `vmap` it still runs only where it has to; a
    # `cond` would always compute both of its sides.
    shift = vary_like(jnp.zeros_like(mean), mean)
    start = mean, shift, var, turns
    anchor, shift, var, _ = lax.while_loop(lambda c: c[3] > 0, about_the_mean, start)
    return Statistics(anchor, shift, var, count)


def _by_double_sums(
    x: Float[Array, "*n"], weights: Weights, segments: Segments, *, layout: Layout
) -> Statistics:
    """The statistics by sums in double precision, in which float32 loses nothing."""
    with jax.enable_x64(True):
        if weights is not None and weights.dtype != bool:
            weights = weights.astype(jnp.float64)
        values = zero_where_left_out(x.astype(jnp.float64), weights)
        # Side by side, for one sum: two would read `x` twice.
        powers = jnp.stack([values, lax.square(values)], axis=-1)
        powers = weigh(powers, None if weights is None else weights[..., None])
        both = layout.total(powers, segments)
        sums = both[..., 0], both[..., 1]
        first, second, count = _of_all_shards(sums, weights, segments, layout)
        share = share_of_one(count, weights, layout, first.ndim)
        mean = first * share
        var = _variance(mean, second * share)
        anchor = mean.astype(jnp.float32)
        shift = mean - anchor.astype(jnp.float64)
        return Statistics(anchor, *(v.astype(jnp.float32) for v in (shift, var, count)))


def _of_all_shards(
    sums: tuple[Float[Array, "*c"], Float[Array, "*c"]],
    weights: Weights,
    segments: Segments,
    layout: Layout,
) -> tuple[Float[Array, "*gc"], Float[Array, "*gc"], Float[Array, "..."]]:
    """The two sums of all shards, and the count, stacked by group."""
    dtype = sums[0].dtype
    if weights is None:
        weights = layout.in_a_segment(segments, len(layout.shape))
    if weights is None:
        counts = layout.counts if layout.has_groups else layout.counts[0]
        first, second = sum_together(sums, layout.sync)
        return first, second, jnp.asarray(counts, dtype)
    counts = layout.count(weights, segments, dtype)
    first, second, count = sum_together((*sums, counts), layout.sync)
    return first, second, count


def _variance(
    mean: Float[Array, "*gc"], mean_square: Float[Array, "*gc"]
) -> Float[Array, "*gc"]:
    """The mean square less the squared mean; where squares overflow, inf, not NaN."""
    var = jnp.maximum(mean_square - lax.square(mean), 0)
    return jnp.where(mean_square == jnp.inf, mean_square, var)


def merge(moments: Moments, axis: int) -> Moments:
    """Merges moments stacked along an axis; parts of count 0 add nothing."""
    mean, var, counts = moments
    count = jnp.sum(counts, axis)
    share = counts * jnp.expand_dims(reciprocal(count), axis)
    share = expand_last(share, var.ndim)
    alive = share > 0
    mean = jnp.where(alive, mean, 0)
    # A value between the means keeps the small differences between them.
    anchor = lax.stop_gradient(jnp.sum(share * mean, axis, keepdims=True))
    offset = jnp.where(alive, mean - anchor, 0)
    shift, var = merge_about(share, offset, jnp.where(alive, var, 0), axis)
    return Moments(jnp.squeeze(anchor, axis) + shift, var, count)


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
    \right)$$

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
    count: Float[Array, "..."],
    weights: Weights,
    segments: Segments,
    layout: Layout,
) -> tuple[Float[Array, "*gc"], Float[Array, "*gc"]]:
    r"""Returns the tangents of the mean and of half the variance.

    $$\dot\mu = \frac1W \sum_i w_i \dot x_i, \qquad
      \tfrac12\dot v = \frac1W \sum_i w_i (x_i - \mu) \dot x_i, \qquad
      W = \sum_i w_i$$

    The mean's tangent adds nothing to the variance's, since $\sum_i w_i (x_i-\mu) = 0$.
    """
    x_dot = weigh(zero_where_left_out(x_dot, weights), weights)
    sums = layout.total(x_dot, segments), layout.total(centered * x_dot, segments)
    sums = sum_together(sums, layout.sync, own_group=True)
    share = share_of_one(count, weights, layout, sums[0].ndim)
    return sums[0] * share, sums[1] * share


def share_of_one(
    count: Float[Array, "..."], weights: Weights, layout: Layout, ndim: int
) -> float | Float[Array, "..."]:
    """1 / count, of a rank; a number where all values count for one and the same."""
    if weights is None and not layout.has_groups and layout.num_segments is None:
        (number,) = layout.counts
        return 1 / number if number else 0.0
    return expand_last(reciprocal(count), ndim)


def reciprocal(count: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 / count, and 0 where nothing counts, so that the means of nothing are 0."""
    # By a power: checkify would compute with a divisor, which may be a double, where
    # JAX allows none.
    positive = jnp.where(count > 0, count, 1)
    return jnp.where(count > 0, lax.integer_pow(positive, -1), 0)


def expand_last(x: Float[Array, "..."], ndim: int) -> Float[Array, "..."]:
    """Appends axes of size 1, up to a rank."""
    return lax.expand_dims(x, tuple(range(x.ndim, ndim)))
