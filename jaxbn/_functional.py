# SPDX-License-Identifier: Apache-2.0
"""Batch norm and renorm in training as pure functions: check, lift, compute."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, Shaped

from jaxbn._checks import (
    check_affine,
    check_dtype,
    check_enough_values,
    check_real,
    is_complex,
)
from jaxbn._collectives import lift_sync
from jaxbn._complex import as_pairs, from_pairs, moments_from_pairs, weights_of_pairs
from jaxbn._derivative import Setting, normalize_by_batch
from jaxbn._lift import (
    compute_dtype,
    lift_input,
    lift_mask,
    lift_vector,
    like_input,
    zero_where_left_out,
)
from jaxbn._normalize import Activation, activate, affine
from jaxbn._renorm import Target
from jaxbn._stats_checks import check_renorm
from jaxbn._types import Moments, RunningStats
from jaxbn._virtual_batches import by_virtual_batch


def batch_norm(
    x: Inexact[Array, "*n"],
    scale: Inexact[Array, "*c"] | None = None,
    bias: Inexact[Array, "*c"] | None = None,
    *,
    axis: int | Sequence[int] = -1,
    epsilon: float = 1e-5,
    mask: Shaped[Array, "..."] | None = None,
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
    - the variance is biased, and right at any mean (see `compute_moments`); the mean is
      subtracted with twice the precision of its dtype, so that output and gradients are
      right where the mean is large, too;
    - reverse mode keeps `x` in its own dtype, a few feature vectors and, with an
      activation on a residual, the output or the residual; forward mode and higher
      derivatives work as well;
    - where nothing counts, the output is 0 and so are all gradients.

    Under `jit` with `x` sharded over a mesh, the statistics are of the whole array.

    Args:
        x: the input, any shape, real or complex.
        scale: of shape `(*c)`, the sizes of the feature axes, or None for 1.
        bias: of the same shape, or None for 0.
        axis: the feature axis or axes; all others are reduced.
        epsilon: added to the variance, finite and at least 0.
        mask: which positions count, as in `compute_moments`. At a position of weight 0
            the output is 0, every gradient is 0, and what stands there, NaN and inf
            included, reaches nothing. No gradient flows to the weights.
        virtual_batch_size: normalize contiguous parts of so many examples, each by its
            own moments, which are returned stacked (ghost batch norm), as in
            `compute_moments`. Under `jit` with the batch cut over a mesh, the examples
            per device make this batch norm per device, without a collective.
        axis_name: the named axis or axes of `shard_map`, `pmap` or `vmap` over which
            the batch is cut, as in `compute_moments`: one collective forward, one
            backward. Gradients of `scale` and `bias` are as for any other function:
            complete under `shard_map` (`check_vma=True`), elsewhere each shard's part,
            where they are taken inside the map.
        axis_index_groups: groups along `axis_name`, each a batch of its own.
        residual: added before the activation, of the shape of `x`.
        activation: an element-wise function of its argument alone; for `jax.nn.relu`
            the backward pass stores no mask.
        dtype: of the output; None for that of `x`.

    Returns:
        The output, of the shape of `x`, and the batch's `Moments`, differentiable too;
        put stacked ones together with `merge_moments`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: `axis` or `epsilon` is out of range, a shape does not fit `x`,
            `virtual_batch_size` does not divide the batch, `axis_name` is not bound,
            `axis_index_groups` does not fit it, or a batch that is not synchronised has
            one value per feature.

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
    sync = lift_sync(axis_name, axis_index_groups)
    x, layout = lift_input(x, axis, sync, scale=scale, bias=bias)
    epsilon = check_affine(x, epsilon, residual, activation)
    dtype = x.dtype if dtype is None else check_dtype(dtype, x.dtype)
    setting = Setting(layout, epsilon, activation, dtype)
    return _normalize(setting, x, scale, bias, None, mask, residual, virtual_batch_size)


def batch_renorm(
    x: Float[Array, "*n"],
    stats: RunningStats,
    scale: Float[Array, "*c"] | None = None,
    bias: Float[Array, "*c"] | None = None,
    *,
    max_scale: float | Float[Array, ""] = 3.0,
    max_shift: float | Float[Array, ""] = 5.0,
    axis: int | Sequence[int] = -1,
    epsilon: float = 1e-5,
    mask: Shaped[Array, "..."] | None = None,
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
    `batch_norm`; where neither is reached, the output is that of inference, and only
    the gradient sees the batch. Start with 1 and 0 and open the range as the running
    statistics settle: both may be traced. Numerics, passes and collectives are those of
    `batch_norm`.

    Args:
        x: the input, any shape, real floating point.
        stats: the running statistics before this batch; update them with the moments.
        scale: of shape `(*c)`, the sizes of the feature axes, or None for 1.
        bias: of the same shape, or None for 0.
        max_scale: the largest correction of the deviation, at least 1.
        max_shift: the largest of the mean, in running deviations, at least 0.
        axis: the feature axis or axes; all others are reduced.
        epsilon: added to both variances, finite and at least 0.
        mask: which positions count, as in `compute_moments`.
        virtual_batch_size: corrects contiguous parts of so many examples, each by its
            own moments.
        axis_name: the named axis or axes over which the batch is cut.
        axis_index_groups: groups along `axis_name`, each a batch of its own.
        residual: added before the activation, of the shape of `x`.
        activation: an element-wise function of its argument alone.
        dtype: of the output; None for that of `x`.

    Returns:
        The output, of the shape of `x`, and the batch's `Moments`, uncorrected, as for
        `batch_norm`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: `max_scale` is under 1, `max_shift` is negative, `stats` are of
            other features, or as for `batch_norm`.

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
    check_renorm(max_scale, max_shift)
    sync = lift_sync(axis_name, axis_index_groups)
    x, layout = lift_input(
        x, axis, sync, scale=scale, bias=bias, mean=stats.mean, var=stats.var
    )
    check_real(x, name="x", reason="batch renorm is not defined for complex numbers")
    epsilon = check_affine(x, epsilon, residual, activation)
    dtype = x.dtype if dtype is None else check_dtype(dtype)
    setting = Setting(layout, epsilon, activation, dtype)
    towards = (stats.mean, stats.var, max_scale, max_shift)
    target = Target(*(jnp.asarray(v, compute_dtype(x)) for v in towards))
    return _normalize(
        setting, x, scale, bias, target, mask, residual, virtual_batch_size
    )


def _normalize(setting, x, scale, bias, target, mask, residual, virtual_batch_size):
    """Lifts what is checked, and computes."""
    working = compute_dtype(x)
    weights = lift_mask(mask, setting.layout, working)
    values = like_input(working, x)
    scale, bias = lift_vector(scale, values), lift_vector(bias, values)
    if not is_complex(x.dtype):
        arrays = x, weights, residual
        return _by_part(setting, scale, bias, target, virtual_batch_size, arrays)
    # The parts are normalized together as pairs; what mixes them comes after.
    layout, activation, dtype = setting.layout, setting.activation, setting.dtype
    pairs = Setting(layout.of_pairs, setting.epsilon, None, working)
    arrays = as_pairs(x), weights_of_pairs(weights), None
    y, moments = _by_part(pairs, None, None, None, virtual_batch_size, arrays)
    if residual is not None:
        residual = zero_where_left_out(residual, weights)
    gain = jnp.ones(layout.features, values) if scale is None else scale
    z = affine(from_pairs(y), gain, bias, residual, layout)
    return activate(z, activation, weights, dtype), moments_from_pairs(moments)


def _by_part(setting, scale, bias, target, virtual_batch_size, arrays):
    """Normalizes each virtual batch, or the whole."""

    def compute(layout, x, weights, residual):
        if layout.sync is None:
            check_enough_values(*layout.as_given)
        part = setting._replace(layout=layout)
        return normalize_by_batch(part, x, weights, scale, bias, residual, target)

    return by_virtual_batch(compute, setting.layout, virtual_batch_size, arrays)
