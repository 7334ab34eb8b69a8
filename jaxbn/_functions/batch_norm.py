# SPDX-License-Identifier: Apache-2.0
"""Batch norm and batch renorm in training."""

from collections.abc import Sequence

from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, Integer, Shaped

from jaxbn._checks.arrays import check_enough_values
from jaxbn._core.affine import Activation, Params
from jaxbn._core.layout import Layout
from jaxbn._core.renorm import Target
from jaxbn._core.training import normalize_by_batch
from jaxbn._core.types import Moments, RunningStats
from jaxbn._functions.lifting import Lifted, lift, lift_params, lift_target
from jaxbn._functions.settings import BatchSettings, RenormSettings


def batch_norm(
    x: Inexact[Array, "*n"],
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    axis: int | Sequence[int] = -1,
    epsilon: float | Float[Array, ""] = 1e-5,
    mask: Shaped[Array, "..."] | None = None,
    segment_ids: Integer[Array, " b"] | None = None,
    num_segments: int | None = None,
    virtual_batch_size: int | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    residual: Inexact[Array, "*n"] | None = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Inexact[Array, "*n"], Moments]:
    r"""Normalizes a batch by its own statistics: batch norm in training.

    $$\mu = \frac1W \sum_i w_i x_i, \qquad v = \frac1W \sum_i w_i (x_i - \mu)^2, \qquad
      y_i = a\left(\gamma\,\frac{x_i - \mu}{\sqrt{v + \epsilon}} + \beta + r_i\right)$$

    per feature, with weights $w_i$ of sum W (1 without a mask), scale $\gamma$, bias
    $\beta$, residual $r$ and activation $a$. Numerics:

    - sums and map in float32, in float64 when `x` is; the output is rounded once;
    - the variance is biased, and accurate at any mean (see `compute_moments`), as a
      part of variance + epsilon; the mean is subtracted with twice the precision of its
      dtype, so that output and gradients are accurate at large means too, and at
      deviations from 1e-15 to 1e15;
    - reverse mode keeps `x` in its own dtype, a few feature vectors and, with an
      activation on a residual, the output or the residual; forward mode and higher
      derivatives work as well;
    - where nothing counts, the output is 0 and so are all gradients.

    Under `jit` with `x` sharded over a mesh, statistics are those of the whole array.

    Args:
        x: the input, any shape, real or complex.
        scale: of shape `(*c)`, the sizes of the feature axes, or `(b, *c)`: one for
            each example (conditional batch norm). None for 1.
        bias: likewise, or None for 0.
        axis: the feature axis or axes; all others are reduced.
        epsilon: added to the variance, finite and at least 0; may be traced, and then
            has a gradient.
        mask: which positions count, as in `compute_moments`. At a position of weight 0
            output and gradients are 0, and the values stored there, even NaN and inf,
            affect nothing. No gradient flows to the weights.
        segment_ids: the segment of each example, as in `compute_moments`: each is
            normalized by the moments of its own, which are returned stacked.
        num_segments: how many segments there are.
        virtual_batch_size: normalize contiguous parts of this many examples, each by
            its own moments, which are returned stacked (ghost batch norm), as in
            `compute_moments`. Under `jit` with the batch sharded over a mesh, a size
            equal to the examples per device gives batch norm per device, without a
            collective.
        axis_name: the named axis or axes of `shard_map`, `pmap` or `vmap` over which
            the batch is sharded, as in `compute_moments`: one collective each way, and
            one more forward where a second pass is made. If gradients are taken inside
            the map, those of `scale` and `bias` are complete under `shard_map`
            (`check_vma=True`), and each shard's part elsewhere, as for any other
            function.
        axis_index_groups: groups along `axis_name`, each a batch of its own.
        residual: added before the activation, of the shape of `x`.
        activation: an element-wise function. One of `jax.nn` is part of the derivative,
            which stores nothing for it; any other may close over values, which get
            their gradients, and is applied as if to the output before it is rounded.
        dtype: of the output; None for that of `x`.

    Returns:
        The output, of the shape of `x`, and the batch's `Moments`, also differentiable;
        merge stacked ones with `merge_moments`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: `axis` or `epsilon` is out of range, a shape does not fit `x`,
            `virtual_batch_size` does not divide the batch, `axis_name` is not bound,
            `axis_index_groups` does not fit it, `segment_ids` and `num_segments` are
            not given together, an id that is known is out of range, or a batch that is
            not synchronised has one value per feature.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxbn
        >>> x = jnp.array([[1.0, 0.0], [3.0, 4.0], [jnp.nan, 0.0]])
        >>> keep = jnp.array([True, True, False])
        >>> y, moments = jaxbn.batch_norm(x, epsilon=0.0, mask=keep)
        >>> y.tolist()
        [[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]
        >>> moments.var.tolist()
        [1.0, 4.0]

    References:
        Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithm 1 and its
        gradient in section 3. Virtual batches: Hoffer, Hubara & Soudry 2017,
        https://arxiv.org/abs/1705.08741, algorithm 1.
    """
    settings = BatchSettings(
        axis=axis,
        epsilon=epsilon,
        virtual_batch_size=virtual_batch_size,
        num_segments=num_segments,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
        activation=activation,
        dtype=dtype,
    )
    lifted = lift(x, settings, mask=mask, segment_ids=segment_ids, residual=residual)
    _check_own_batch(lifted.layout)
    return normalize_by_own(lifted, lift_params(lifted, scale, bias))


def batch_renorm(
    x: Float[Array, "*n"],
    stats: RunningStats,
    scale: Float[Array, "..."] | None = None,
    bias: Float[Array, "..."] | None = None,
    *,
    max_scale: float | Float[Array, ""] = 3.0,
    max_shift: float | Float[Array, ""] = 5.0,
    axis: int | Sequence[int] = -1,
    epsilon: float | Float[Array, ""] = 1e-5,
    mask: Shaped[Array, "..."] | None = None,
    segment_ids: Integer[Array, " b"] | None = None,
    num_segments: int | None = None,
    virtual_batch_size: int | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
    residual: Float[Array, "*n"] | None = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "*n"], Moments]:
    r"""Normalizes a batch, corrected towards the running statistics.

    $$y_i = a\left(\gamma\left(\frac{x_i - \mu_B}{\sigma_B}\,r + d\right) + \beta
      + \text{residual}_i\right), \qquad
      r = \operatorname{clip}\left(\frac{\sigma_B}{\sigma}\right), \qquad
      d = \operatorname{clip}\left(\frac{\mu_B - \mu}{\sigma}\right)$$

    with the batch's $\mu_B$, $\sigma_B = \sqrt{v_B + \epsilon}$ and the running $\mu$,
    $\sigma$. r is kept in [1 / `max_scale`, `max_scale`], d in [-`max_shift`,
    `max_shift`]; no gradient flows through them, nor to `stats`. With 1 and 0 this is
    `batch_norm`; where r and d are within the limits, the output is that of inference,
    and only the gradient depends on the batch. Start with 1 and 0, and open the range
    as the running statistics settle: both may be traced. Numerics, passes and
    collectives are those of `batch_norm`.

    Args:
        x: the input, any shape, real floating point.
        stats: the running statistics before this batch; update them with the returned
            moments.
        scale: of shape `(*c)`, the sizes of the feature axes, or `(b, *c)`: one for
            each example (conditional batch norm). None for 1.
        bias: likewise, or None for 0.
        max_scale: the largest correction of the deviation, at least 1.
        max_shift: the largest of the mean, in running deviations, at least 0.
        axis: the feature axis or axes; all others are reduced.
        epsilon: added to both variances, finite and at least 0; may be traced.
        mask: which positions count, as in `compute_moments`.
        segment_ids: the segment of each example, which is corrected towards the
            statistics of its own, as for `batch_norm`; `stats` have a leading axis of
            `num_segments`.
        num_segments: how many segments there are.
        virtual_batch_size: correct contiguous parts of this many examples, each by its
            own moments.
        axis_name: the named axis or axes over which the batch is sharded.
        axis_index_groups: groups along `axis_name`, each a batch of its own.
        residual: added before the activation, of the shape of `x`.
        activation: an element-wise function, as for `batch_norm`.
        dtype: of the output; None for that of `x`.

    Returns:
        The output, of the shape of `x`, and the batch's `Moments`, uncorrected, as for
        `batch_norm`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: `max_scale` is below 1, `max_shift` is negative, `stats` do not fit
            the features of `x`, or as for `batch_norm`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxbn
        >>> x = jnp.array([[2.0], [6.0]])
        >>> mean, var, count = jnp.array([3.0]), jnp.array([1.0]), jnp.array(9.0)
        >>> stats = jaxbn.RunningStats(mean, var, count)
        >>> y, _ = jaxbn.batch_renorm(x, stats, epsilon=0.0)
        >>> y.tolist()
        [[-1.0], [3.0]]

    References:
        Ioffe 2017, https://arxiv.org/abs/1702.03275, algorithm 1.
    """
    settings = BatchSettings(
        axis=axis,
        epsilon=epsilon,
        virtual_batch_size=virtual_batch_size,
        num_segments=num_segments,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
        activation=activation,
        dtype=dtype,
    )
    lifted = lift(x, settings, mask=mask, segment_ids=segment_ids, residual=residual)
    limits = RenormSettings(max_scale=max_scale, max_shift=max_shift)
    target = lift_target(lifted, stats, limits)
    _check_own_batch(lifted.layout)
    return normalize_by_own(lifted, lift_params(lifted, scale, bias), target)


def _check_own_batch(layout: Layout) -> None:
    """Of shards that share a batch it is not known how many values there are."""
    if layout.own_batch is not None:
        check_enough_values(layout.own_batch, layout.feature_axes)


def normalize_by_own(
    lifted: Lifted, params: Params, target: Target | None = None
) -> tuple[Inexact[Array, "*n"], Moments]:
    """Normalizes a lifted batch by its own moments, corrected where there is a target.

    The moments are returned too.
    """
    y, moments = normalize_by_batch(lifted.static, lifted.batch, params, target)
    return lifted.activate(y), moments
