# SPDX-License-Identifier: Apache-2.0
"""The moments of one batch, and of several merged."""

from collections.abc import Sequence

from jaxtyping import Array, Inexact, Integer, Shaped

from jaxbn._checks.statistics import check_stacked_axis
from jaxbn._core.moments import batch_moments, merge_stacked
from jaxbn._core.types import Moments
from jaxbn._functions.lifting import lift
from jaxbn._functions.settings import BatchSettings


def compute_moments(
    x: Inexact[Array, "*n"],
    *,
    axis: int | Sequence[int] = -1,
    mask: Shaped[Array, "..."] | None = None,
    segment_ids: Integer[Array, " b"] | None = None,
    num_segments: int | None = None,
    virtual_batch_size: int | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> Moments:
    r"""Returns mean, variance and count of exactly the values that count.

    $$\mu_c = \frac1W \sum_n w_n x_{nc}, \qquad
      v_c = \frac1W \sum_n w_n (x_{nc} - \mu_c)^2, \qquad W = \sum_n w_n$$

    with weights $w_n = 1$ where there is no mask. Numerics:

    - results in float32, in float64 when `x` is; sums likewise, but always in float64
      on an NVIDIA GPU;
    - one pass over `x`; except on an NVIDIA GPU a second, about the means, where one is
      more than 5 deviations from 0. In any order of the values, with any outlier, the
      relative error of the variance is at most 1e-5 at mean / sd up to 1e4 and 4e6
      values a feature, in bfloat16 too; it is never negative, nor NaN for finite `x`,
      and inf only where it exceeds the largest number;
    - the variance is biased (divided by W, not W - 1);
    - where nothing counts, for an empty batch or a mask of zeros, mean, var and count
      are 0.

    Under `jit` with `x` sharded over a mesh these are the moments of the whole array.

    Args:
        x: the input, any shape, real or complex. The mean of complex numbers is
            complex, their variance the mean of $|x - \mu|^2$.
        axis: the feature axis or axes; all others are reduced.
        mask: which positions count. Bool or int: positions that are not 0 count once;
            float: a weight, at least 0. Either it has the rank of `x` and is
            broadcastable to it; or it has a lower rank, and is aligned with the leading
            axes of `x`, such as `(b,)` or `(b, t)`. Values at positions of weight 0,
            even NaN and inf, affect nothing. No gradient flows to the mask.
        segment_ids: the segment of each example, axis 0 of `x`, in [0, `num_segments`),
            such as its domain. Each segment has the moments of a call in which `mask`
            leaves all others out, to rounding, and all share one collective. An id out
            of range is an error where it is known when the call is traced; elsewhere
            the example counts for nothing.
        num_segments: how many segments there are, a static number.
        virtual_batch_size: cut the batch, axis 0 of `x`, into contiguous parts of this
            many examples, and return the moments of each, stacked (ghost batch norm).
            Where the batch is synchronised, the parts are cut from the whole batch: if
            the size exceeds a shard's, a part is several consecutive shards.
        axis_name: the named axis or axes of `shard_map`, `pmap` or `vmap` over which
            the batch is sharded; the moments are then those of all shards together,
            counts included, by one collective each way, and one more forward where the
            second pass is made. Leave it None under `jit` alone.
        axis_index_groups: groups of indices along `axis_name` (its names flattened, the
            last varying fastest), each of which is a batch of its own. Every index must
            be in exactly one group; their sizes may differ.

    Returns:
        Moments: `mean` and `var` of the shape of the feature axes, `count` a scalar, or
        of that shape too where the mask is larger than 1 along a feature axis; with
        `virtual_batch_size` they have one more axis, in front, with `num_segments`
        another after it. A part that is in
        another group of `axis_index_groups` has count 0 there.
        Mean and variance are differentiable in `x`, by forward and reverse mode.

    Raises:
        TypeError: `x` is not floating point, or another argument of a wrong kind.
        ValueError: `axis` is out of range or repeated, `mask` does not fit `x`,
            `virtual_batch_size` does not divide the batch, `axis_name` is not bound,
            `axis_index_groups` does not fit it, `segment_ids` and `num_segments` are
            not given together, or an id that is known is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxbn
        >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0], [jnp.nan, 0.0]])
        >>> moments = jaxbn.compute_moments(x, mask=jnp.array([True, True, False]))
        >>> moments.mean.tolist(), moments.var.tolist(), moments.count.item()
        ([2.0, 20.0], [1.0, 100.0], 2.0)

    References:
        Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithm 1. The shifted
        one-pass variance: Chan, Golub & LeVeque 1983, "Algorithms for computing the
        sample variance", equation 1.7.
    """
    settings = BatchSettings(
        axis=axis,
        virtual_batch_size=virtual_batch_size,
        num_segments=num_segments,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
    )
    lifted = lift(x, settings, mask=mask, segment_ids=segment_ids)
    return batch_moments(lifted.layout, lifted.batch)


def merge_moments(moments: Moments, *, axis: int = 0) -> Moments:
    r"""Merges moments that are stacked along an axis into those of all their values.

    $$N = \sum_k n_k, \quad \mu = \frac1N \sum_k n_k \mu_k, \quad
      v = \frac1N \sum_k n_k \left(v_k + (\mu_k - \mu)^2\right)$$

    This is exact; an average of the variances would miss the distance between the
    means. Moments of count 0 add nothing, whatever their values are.

    Args:
        moments: `mean` and `var` of shape `(*g, *c)`; `count` of shape `(*g)`, or
            `(*g, *c)` where it differs between features. One stacked axis or more.
        axis: which of the stacked axes to merge. Count it from the front where `count`
            has feature axes, which are not told from stacked ones.

    Returns:
        Moments without that axis, in the same dtype; all 0 where every count is 0.

    Raises:
        TypeError: `axis` is not an int.
        ValueError: `axis` is not one of the stacked axes.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxbn
        >>> shards = jaxbn.Moments(
        ...     mean=jnp.array([[1.0], [4.0]]),
        ...     var=jnp.array([[0.0], [0.0]]),
        ...     count=jnp.array([2.0, 1.0]),
        ... )
        >>> merged = jaxbn.merge_moments(shards)
        >>> merged.mean.tolist(), merged.var.tolist(), merged.count.item()
        ([2.0], [2.0], 3.0)

    References:
        Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance",
        equation 2.1, for any number of parts.
    """
    return merge_stacked(moments, check_stacked_axis(axis, moments.count.shape))
