# SPDX-License-Identifier: Apache-2.0
"""Batch norm as a Flax Linen module: its state; the arithmetic is in the core."""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, Integer, Shaped

from jaxbn._checks.models import check_has_count
from jaxbn._checks.statistics import check_renorm
from jaxbn._core.affine import Activation
from jaxbn._core.moments import batch_moments
from jaxbn._flax.layer import (
    CallArrays,
    Limit,
    Limits,
    affine_of,
    call_layer,
    check_fields,
    counts_updates,
    lift_call,
    renorm_of,
    start_for,
)
from jaxbn._flax.records import LayerState, names_of_state


class BatchNorm(nn.Module):
    r"""Batch norm with the names, parameters and `batch_stats` of `flax.linen`.

    $$y = a\left(\gamma\,\frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\right)$$

    with the batch's mean and variance in training, the running ones in inference. To
    use it in an existing model, change the import. The `params` are `scale` and `bias`,
    the `batch_stats` are `mean` and `var`, of the shape of the feature axes, so that
    each library reads the other's checkpoints. The numerics are those of
    `jaxbn.batch_norm`: the variance is accurate at any mean.

    Differences from Flax, with examples in `docs/differences.md`. Four bugs are not
    kept: the variance at a large mean, masked means over several devices, statistics
    that stay NaN after a batch with nothing to count or a value that is not finite, and
    their dtype under x64. Besides:

    - the output has the dtype of `x` unless `dtype` is given, not the widest of `x` and
      parameters; integers become float32;
    - where `mask` leaves a position out, the output is 0; a mask may have the leading
      axes of `x`; one that also fits as Flax reads it is refused, except one value for
      each example; floats are weights;
    - one value per feature in training warns, and updates nothing;
    - values out of range are refused, most of them when the module is made.

    Attributes:
        use_running_average: normalize by the running statistics (inference) instead of
            the batch's; here or at the call.
        axis: the feature axis or axes.
        momentum: of the running statistics, in [0, 1]:
            `new = momentum * old + (1 - momentum) * batch`. PyTorch's momentum is 1
            minus this one. None: the plain average of all updates, whose `count` is
            then in `batch_stats` too.
        epsilon: added to the variance, at least 0; may be traced.
        dtype: of the output; None for that of the input.
        param_dtype: of `scale` and `bias`; the running statistics are always float32,
            the mean of a complex input complex64.
        use_bias: whether to add a learned bias.
        use_scale: whether to multiply by a learned scale.
        bias_init: initializer of the bias.
        scale_init: initializer of the scale.
        axis_name: the named axis or axes of `shard_map`, `pmap` or `vmap` over which
            batch statistics are synchronised, counts included. It is not needed under
            `jit`, and need not be bound at initialization.
        axis_index_groups: groups along `axis_name`, each a batch of its own.
        use_fast_variance: without effect: what Flax's False is for, a second pass
            about the mean, is made wherever it matters.
        force_float32_reductions: without effect: sums and running statistics are never
            narrower than float32.
        virtual_batch_size: normalize contiguous parts of this many examples, each by
            its own moments (ghost batch norm), as in `jaxbn.batch_norm`; the running
            statistics are updated with the moments of all parts together.
        num_segments: keep statistics of this many segments, such as domains: each
            example is normalized by those of its own, and `mean` and `var` have a
            leading axis. The call then needs `segment_ids`. A segment without examples
            keeps its statistics.
        unbiased: store the variance with Bessel's correction, as PyTorch does.
        debias: leave the initial 0 and 1 out of the running statistics, so that they
            suit inference from the first update on; a `count` is then in `batch_stats`
            too. Statistics without one, of a layer that did not count, are taken for
            settled.
        activation: applied last. One of `jax.nn` is part of the layer's derivative,
            which stores nothing for it; any other, such as `nn.PReLU()` or a closure,
            is applied as if after the layer.
        frozen: inference whatever the call asks for, and no gradient for scale and
            bias; `jaxbn.linen.freeze` sets it in a whole model.

    Raises:
        TypeError: an argument of the constructor is of a wrong kind.
        ValueError: `momentum`, `epsilon`, `virtual_batch_size` or `num_segments` is out
            of range.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxbn.linen import BatchNorm
        >>> x = jnp.array([[1.0], [5.0]])
        >>> norm = BatchNorm(momentum=0.5)
        >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
        >>> y, updates = norm.apply(
        ...     variables, x, use_running_average=False, mutable=["batch_stats"]
        ... )
        >>> updates["batch_stats"]["mean"].item(), updates["batch_stats"]["var"].item()
        (1.5, 2.5)

    References:
        Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167.
    """

    use_running_average: bool | None = None
    axis: int | Sequence[int] = -1
    momentum: float | Float[Array, ""] | None = 0.99
    epsilon: float | Float[Array, ""] = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Sequence[Sequence[int]] | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    virtual_batch_size: int | None = None
    num_segments: int | None = None
    unbiased: bool = False
    debias: bool = False
    activation: Activation | None = None
    frozen: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        check_fields(self)

    @nn.compact
    def __call__(
        self,
        x: Shaped[Array, "*n"],
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
        segment_ids: Integer[Array, " b"] | None = None,
        scale: Inexact[Array, "..."] | None = None,
        bias: Inexact[Array, "..."] | None = None,
        residual: Inexact[Array, "*n"] | None = None,
        update_stats: bool | None = None,
    ) -> Inexact[Array, "*n"]:
        """Normalizes `x`, and in training updates the running statistics.

        Which statistics are used, and whether they are updated, are two choices:

        - `use_running_average=False`: training. With `update_stats=False` the batch's
          statistics leave no trace, and `batch_stats` need not be mutable;
        - `use_running_average=True`: inference. With `update_stats=True` the output is
          the same, and the running statistics are updated with this batch's.

        At initialization nothing is updated.

        Args:
            x: the input, any shape, real or complex; integers are computed in float32.
            use_running_average: as the field; give one of the two.
            mask: which positions count, as in `jaxbn.compute_moments`, or broadcast to
                `x` as by NumPy; elsewhere the output is 0, in training and in
                inference.
            segment_ids: the segment of each example, below `num_segments`, as in
                `jaxbn.compute_moments`.
            scale: of shape `(*c)`, or one for each example, `(b, *c)`, such as one for
                its class (conditional batch norm). Needs `use_scale=False`.
            bias: likewise, with `use_bias=False`.
            residual: added before the activation, of the shape of `x`.
            update_stats: whether the running statistics are updated; None: exactly when
                they are not used.

        Returns:
            The normalized input, of the shape of `x`.

        Raises:
            TypeError: an argument is of a wrong kind.
            ValueError: a value is out of range or a shape does not fit `x`;
                `use_running_average` is given twice or not at all; or the plain average
                has no `count` to go by.

        Warns:
            UserWarning: `x` has one value per feature in training: it is normalized to
                0, and nothing is updated.
        """
        arrays = CallArrays(mask, segment_ids, scale, bias, residual)
        return _call(self, x, arrays, use_running_average, update_stats)


def _call(
    norm: BatchNorm,
    x: Shaped[Array, "*n"],
    arrays: CallArrays,
    use_running_average: bool | None,
    update_stats: bool | None,
    renorm: Limits | None = None,
) -> Inexact[Array, "*n"]:
    """A call of either module: makes or reads its variables, and writes them.

    A function, since Linen would see a call in every method of a module.
    """
    use_running_average = nn.merge_param(
        "use_running_average", norm.use_running_average, use_running_average
    )
    initializing = norm.is_initializing()
    call = lift_call(
        norm,
        x,
        arrays,
        # No axis is bound in initialization, and a batch of one example will do.
        use_running_average=use_running_average or initializing,
        update_stats=False if initializing else update_stats,
        renorm=renorm,
    )
    layout, batch = call.lifted.layout, call.lifted.batch
    start = start_for(batch.x.dtype, layout.of_statistics)
    has = partial(norm.has_variable, "batch_stats")
    counts = counts_updates(norm)
    if counts and has("mean") and not has("count"):
        counts = call.update_stats  # inference does not need the count
        if counts:
            check_has_count(norm.path, norm.momentum)
    variables = {
        name: norm.variable("batch_stats", name, getattr, start, name)
        for name in names_of_state(counts=counts, has=has)
    }
    scale = bias = None
    if norm.use_scale:
        scale = norm.param("scale", norm.scale_init, layout.features, norm.param_dtype)
    if norm.use_bias:
        bias = norm.param("bias", norm.bias_init, layout.features, norm.param_dtype)
    scale, bias = affine_of(norm, {"scale": scale, "bias": bias}, arrays)
    state = LayerState.from_variables({k: v.value for k, v in variables.items()})
    given = None
    if initializing and not (use_running_average or norm.frozen):
        given = batch_moments(layout, batch)[:2]
    y, new = call_layer(call, scale, bias, state, given)
    if new is not None:
        for name, value in new.as_variables().items():
            variables[name].value = value
    return y


class BatchRenorm(BatchNorm):
    r"""Batch norm corrected towards the running statistics, for small batches.

    $$y = a\left(\gamma\left(\frac{x - \mu_B}{\sigma_B}\,r + d\right) + \beta\right)$$

    in training, with the corrections r and d of `jaxbn.batch_renorm` within the limits;
    inference is that of `BatchNorm`, and so are the other fields, the `params` and the
    `batch_stats`. The running statistics must be good before they correct: start with
    limits of 1 and 0 and open them by a schedule, or use `debias`. CrossQ, for one, has
    `max_scale=optax.join_schedules([lambda _: 1.0, lambda _: 3.0], [100_000])`.

    Attributes:
        max_scale: the largest correction of the deviation, at least 1; or its schedule,
            a function of the number of updates, such as one of optax. The layer then
            keeps a `count` in `batch_stats`, for each feature.
        max_shift: the largest of the mean, in running deviations, at least 0; or its
            schedule.
        momentum: of the running statistics:
            `new = momentum * old + (1 - momentum) * batch`. PyTorch's momentum is 1
            minus this one.

    Raises:
        TypeError: an argument of the constructor is of a wrong kind.
        ValueError: `max_scale` is below 1, `max_shift` is negative, or as for
            `BatchNorm`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxbn.linen import BatchRenorm
        >>> x = jnp.array([[1.0], [5.0]])
        >>> norm = BatchRenorm(use_running_average=False, epsilon=0.0)
        >>> variables = norm.init(jax.random.key(0), x)
        >>> y, _ = norm.apply(variables, x, mutable=["batch_stats"])
        >>> y.tolist()  # as in inference: the running mean is 0, the deviation 1
        [[1.0], [5.0]]

    References:
        Ioffe 2017, https://arxiv.org/abs/1702.03275.
    """

    max_scale: Limit = 3.0
    max_shift: Limit = 5.0

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        check_renorm(self.max_scale, self.max_shift)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*n"],
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
        segment_ids: Integer[Array, " b"] | None = None,
        scale: Float[Array, "..."] | None = None,
        bias: Float[Array, "..."] | None = None,
        residual: Float[Array, "*n"] | None = None,
        update_stats: bool | None = None,
        max_scale: float | Float[Array, ""] | None = None,
        max_shift: float | Float[Array, ""] | None = None,
    ) -> Float[Array, "*n"]:
        """As `BatchNorm`, with limits that a schedule may open.

        Args:
            x: the input, any shape, real floating point.
            use_running_average: as for `BatchNorm`, like all down to `update_stats`.
            mask: which positions count.
            segment_ids: the segment of each example.
            scale: in place of a learned one.
            bias: likewise.
            residual: added before the activation.
            update_stats: whether the running statistics are updated.
            max_scale: overrides the field; may be traced.
            max_shift: overrides the field; may be traced.

        Returns:
            The normalized input, of the shape of `x`.

        Raises:
            TypeError: an argument is of a wrong kind.
            ValueError: as for `BatchNorm`, or a limit is out of range.
        """
        renorm = renorm_of(self, max_scale, max_shift)
        arrays = CallArrays(mask, segment_ids, scale, bias, residual)
        return _call(self, x, arrays, use_running_average, update_stats, renorm)
