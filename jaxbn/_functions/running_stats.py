# SPDX-License-Identifier: Apache-2.0
"""The running statistics that inference uses: their start and their update."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact

from jaxbn._checks.arrays import check_dtype
from jaxbn._checks.statistics import (
    check_keeps_complex,
    check_momentum,
    check_num_features,
    check_same_features,
)
from jaxbn._core.meshes import shard_like
from jaxbn._core.statistics import expand_last
from jaxbn._core.types import Moments, RunningStats


def init_running_stats(
    num_features: int | Sequence[int], *, dtype: DTypeLike = jnp.float32
) -> RunningStats:
    """Returns mean 0, variance 1, count 0: inference gives `x / sqrt(1 + epsilon)`.

    Args:
        num_features: the number of features, or the sizes of several feature axes.
        dtype: of the statistics; keep float32, since in half precision an update of
            less than half a unit in the last place is lost.

    Returns:
        RunningStats of shape `(num_features,)`.

    Raises:
        TypeError: `num_features` is not made of ints, or `dtype` is not a real
            floating-point dtype.
        ValueError: `num_features` is negative.

    Example:
        >>> import jaxbn
        >>> jaxbn.init_running_stats(2)
        RunningStats(mean=Array([0., 0.], dtype=float32), \
var=Array([1., 1.], dtype=float32), count=Array([0., 0.], dtype=float32))

    References:
        `flax.linen.BatchNorm` and PyTorch start with the same values.
    """
    shape = check_num_features(num_features)
    check_dtype(dtype)
    return RunningStats(
        jnp.zeros(shape, dtype), jnp.ones(shape, dtype), jnp.zeros(shape, dtype)
    )


def update_running_stats(
    stats: RunningStats,
    moments: Moments,
    *,
    momentum: float | Float[Array, ""] | None = 0.99,
    unbiased: bool = False,
    debias: bool = False,
) -> RunningStats:
    r"""Updates the running statistics with one batch's moments.

    `new = momentum * old + (1 - momentum) * batch`, for mean and variance. PyTorch's
    `momentum` is 1 minus this one. With `momentum=None` they are the plain average of
    all updates so far: `new = old + (batch - old) / (count + 1)`. With `debias` they
    are the average of the batches alone, with weights momentum**age: from the first
    update on, the initial 0 and 1 have no weight. The momentum of update k + 1 is then
    $m (1 - m^k) / (1 - m^{k+1})$; at $m = 1$ this is the plain average. Numerics:

    - arithmetic and result have the dtype of `stats`, whatever the dtype of `moments`,
      so that `stats` can be the carry of `lax.scan`;
    - a batch in which nothing counts (count 0) changes nothing, and a feature whose
      moments are not finite keeps its statistics: NaN is never stored. What changes
      nothing is not counted, feature by feature.

    Args:
        stats: the statistics so far, each of shape `(*c)`; one `count` for all
            features is taken too, and grows unless no feature is updated.
        moments: this batch's, of the same shape; no gradient flows through them.
        momentum: the weight of the old value, in [0, 1], or None for the plain average;
            may be traced.
        unbiased: store the variance times count / (count - 1) (Bessel's correction, as
            in PyTorch; not applied at a count of 1 or less).
        debias: leave the initial values out, so that the statistics suit inference at
            any time. Needs the `count` of the updates.

    Returns:
        The new statistics, of the same shapes and dtypes; `count` has grown by 1 for
        each feature that is updated.

    Raises:
        TypeError: `momentum` is not a number, or one mean is complex and the other is
            not.
        ValueError: `momentum` is outside [0, 1], or the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxbn
        >>> stats = jaxbn.init_running_stats(1)
        >>> moments = jaxbn.compute_moments(jnp.array([[4.0], [8.0]]))
        >>> new = jaxbn.update_running_stats(stats, moments, momentum=0.5)
        >>> new.mean.item(), new.var.item()
        (3.0, 2.5)

    References:
        Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, section 3.1. The weights
        of `debias` are those of Kingma & Ba 2015, https://arxiv.org/abs/1412.6980,
        section 3, without the division afterwards: there the initial 1 would swallow a
        small variance.
    """
    check_momentum(momentum)
    check_same_features(stats.mean.shape, moments.mean.shape)
    check_keeps_complex(stats.mean.dtype, moments.mean.dtype)
    weights = None if momentum is None else _as_weights(momentum)
    return _updated(stats, moments, weights, unbiased=unbiased, debias=debias)


class _Momentum(NamedTuple):
    """The weights of the old value and of the new, and the logarithm of the first."""

    keep: float | Float[Array, ""]
    take: float | Float[Array, ""]
    log: float | Float[Array, ""]


def _as_weights(momentum: float | Float[Array, ""]) -> _Momentum:
    """Of a momentum of 0, which has none, the logarithm is not taken."""
    if isinstance(momentum, Array):
        log = jnp.log(jnp.where(momentum > 0, momentum, 1))
        return _Momentum(momentum, 1 - momentum, log)
    # As Python numbers: 1 - 0.99 is closer to 0.01 there than in float32. They are
    # arguments of what is compiled, so that another momentum compiles nothing.
    keep = float(momentum)
    return _Momentum(keep, 1 - keep, math.log(keep or 1))


@functools.partial(jax.jit, static_argnames=("unbiased", "debias"))
def _updated(
    stats: RunningStats,
    moments: Moments,
    momentum: _Momentum | None,
    *,
    unbiased: bool,
    debias: bool,
) -> RunningStats:
    """The update with a momentum, or the plain average of all updates."""
    mean, var, count = lax.stop_gradient(moments)
    count = expand_last(count, var.ndim)
    mean, var = shard_like(mean, stats.mean), shard_like(var, stats.var)
    if unbiased:
        var = var * jnp.where(count > 1, count / jnp.where(count > 1, count - 1, 1), 1)
    keep, take = _weights(momentum, stats.count, debias=debias)
    usable = (count > 0) & jnp.isfinite(mean) & jnp.isfinite(var)

    def updated(
        old: Inexact[Array, "*c"], new: Inexact[Array, "*c"]
    ) -> Inexact[Array, "*c"]:
        average = _times(keep, old) + _times(take, new.astype(old.dtype))
        return jnp.where(usable, average, old)

    counted = usable if stats.count.ndim else jnp.any(usable)
    return RunningStats(
        updated(stats.mean, mean),
        updated(stats.var, var),
        stats.count + counted.astype(stats.count.dtype),
    )


def _times(
    weight: Float[Array, "..."], value: Inexact[Array, "*c"]
) -> Inexact[Array, "*c"]:
    """The product in the dtype of the value, which may be complex."""
    return value * weight.astype(value.dtype)


def _weights(
    momentum: _Momentum | None, count: Float[Array, "..."], *, debias: bool
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Returns the weights of the old value and of the new, of sum 1."""
    if momentum is None:
        return count / (count + 1), 1 / (count + 1)
    if not debias:
        return jnp.asarray(momentum.keep), jnp.asarray(momentum.take)
    keep, take, log = (jnp.asarray(m).astype(count.dtype) for m in momentum)
    # 1 - momentum**k without cancellation; of momenta 0 and 1 the limits.
    seen = jnp.where(keep < 1, -jnp.expm1(count * log), count)
    seen_after = jnp.where(keep < 1, -jnp.expm1((count + 1) * log), count + 1)
    seen_after = jnp.where(keep > 0, seen_after, 1)
    return keep * seen / seen_after, jnp.where(keep < 1, take, 1) / seen_after
