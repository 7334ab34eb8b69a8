# SPDX-License-Identifier: Apache-2.0
"""Batch norm as a Flax NNX module: its state; the arithmetic is in the core."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.nnx.rnglib import Rngs
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, Integer, Shaped

from jaxbn._checks.models import check_counts, check_train_flag
from jaxbn._checks.segments import check_num_segments
from jaxbn._checks.statistics import check_num_features, check_renorm
from jaxbn._core.affine import Activation
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

PromoteDtype = Callable[..., tuple[Any, ...]]


class FrozenParam(nnx.BatchStat[Any]):
    """A parameter of a frozen layer.

    It is no `nnx.Param`, so that neither gradients nor optimizers see it, weight decay
    included. It is an `nnx.BatchStat`, so that code which splits a model into these two
    kinds works as before.
    """


class BatchNorm(nnx.BatchNorm):
    r"""Batch norm with the constructor and variables of `flax.nnx.BatchNorm`.

    $$y = a\left(\gamma\,\frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\right)$$

    with the batch's mean and variance in training, the running ones in inference. To
    use it in an existing model, change the import. `scale` and `bias` are `nnx.Param`,
    `mean` and `var` `nnx.BatchStat`, of shape `(num_features,)`. Every argument means
    what the field of that name means in `jaxbn.linen.BatchNorm`, and the numerics are
    the same.

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

    Under `vmap`, split the module, merge a copy inside and return its state.

    Args:
        num_features: the number of features, or the sizes of several feature axes.
        use_running_average: normalize by the running statistics (inference) instead of
            the batch's; `model.train()`, `model.eval()`, `nnx.view` and the call's own
            argument change it.
        axis: the feature axis or axes.
        momentum: of the running statistics, in [0, 1]:
            `new = momentum * old + (1 - momentum) * batch`. PyTorch's momentum is 1
            minus this one. None: the plain average of all updates.
        epsilon: added to the variance, at least 0; may be traced.
        dtype: of the output; None for that of the input. For complex input this or
            `param_dtype` must be complex.
        param_dtype: of `scale` and `bias`; the running statistics are always float32,
            the mean of a complex layer complex64.
        use_bias: whether to add a learned bias.
        use_scale: whether to multiply by a learned scale.
        bias_init: initializer of the bias.
        scale_init: initializer of the scale.
        axis_name: the named axis or axes over which batch statistics are synchronised.
        axis_index_groups: groups along `axis_name`, each a batch of its own.
        use_fast_variance: without effect, as in `jaxbn.linen`.
        promote_dtype: a function of `((x, mean, var, scale, bias), dtype=dtype)` that
            returns the five in other dtypes, before anything is computed with them;
            with Flax's default, `flax.nnx.nn.dtypes.promote_dtype`, the output has the
            dtype that it has there. None: the arithmetic is in float32, and the output
            has the dtype of the input.
        virtual_batch_size: normalize contiguous parts of this many examples, each by
            its own moments.
        num_segments: keep statistics of this many segments, as in `jaxbn.linen`; `mean`
            and `var` have a leading axis, and the call needs `segment_ids`.
        unbiased: store the variance with Bessel's correction.
        debias: leave the initial 0 and 1 out of the running statistics. Statistics
            loaded from a layer without `count` are taken for settled; with
            `momentum=None` they count as one update.
        activation: applied last, such as `jax.nn.relu` or `nnx.PReLU()`.
        rngs: for the initializers.
        bias_metadata, scale_metadata: keyword arguments of the two `nnx.Param`.

    Raises:
        TypeError: an argument of the constructor is of a wrong kind.
        ValueError: `momentum`, `epsilon`, `virtual_batch_size` or `num_segments` is out
            of range.

    Attributes:
        frozen: inference whatever the call and `model.train()` ask for;
            `jaxbn.nnx.freeze` sets it, `unfreeze` takes it back.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxbn.nnx import BatchNorm
        >>> norm = BatchNorm(1, momentum=0.5, rngs=nnx.Rngs(0))
        >>> y = norm(jnp.array([[1.0], [5.0]]))
        >>> norm.mean[...].item(), norm.var[...].item()
        (1.5, 2.5)

    References:
        Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167.
    """

    # The base is Flax's norm, of which nothing is used, since models choose how to call
    # a layer by `isinstance(layer, nnx.BatchNorm)`. Below is what that has no attribute
    # for. A layer keeps one of its own where it differs from these, so that otherwise
    # its graph has Flax's attributes alone.
    virtual_batch_size: int | None = None
    num_segments: int | None = None
    unbiased: bool = False
    debias: bool = False
    activation: Activation | None = None
    frozen: bool = False

    def __init__(
        self,
        num_features: int | Sequence[int],
        *,
        use_running_average: bool | None = False,
        axis: int | Sequence[int] = -1,
        momentum: float | Float[Array, ""] | None = 0.99,
        epsilon: float | Float[Array, ""] = 1e-5,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Initializer = initializers.zeros,
        scale_init: Initializer = initializers.ones,
        axis_name: str | Sequence[str] | None = None,
        axis_index_groups: Sequence[Sequence[int]] | None = None,
        use_fast_variance: bool = True,
        promote_dtype: PromoteDtype | None = None,
        virtual_batch_size: int | None = None,
        num_segments: int | None = None,
        unbiased: bool = False,
        debias: bool = False,
        activation: Activation | None = None,
        rngs: Rngs,
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
        scale_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        """Makes parameters and running statistics."""
        shape = check_num_features(num_features)
        segments = check_num_segments(num_segments)
        of_each = shape if segments is None else (segments, *shape)
        start = start_for(param_dtype if dtype is None else dtype, of_each)
        self.scale = self.bias = nnx.data(None)
        if use_scale:
            scale = scale_init(rngs.params(), shape, param_dtype)
            self.scale = nnx.Param(scale, **scale_metadata)
        if use_bias:
            bias = bias_init(rngs.params(), shape, param_dtype)
            self.bias = nnx.Param(bias, **bias_metadata)
        self.num_features, self.axis = num_features, axis
        self.use_running_average = use_running_average
        self.momentum = momentum
        self.epsilon = epsilon
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.use_bias = use_bias
        self.use_scale = use_scale
        self.axis_name = axis_name
        self.axis_index_groups = axis_index_groups
        self.use_fast_variance = use_fast_variance
        self.promote_dtype = promote_dtype
        if virtual_batch_size is not None:
            self.virtual_batch_size = virtual_batch_size
        if num_segments is not None:
            self.num_segments = num_segments
        if unbiased:
            self.unbiased = unbiased
        if debias:
            self.debias = debias
        if activation is not None:
            self.activation = activation
        self.mean = nnx.BatchStat(start.mean)
        self.var = nnx.BatchStat(start.var)
        if counts_updates(self):
            self.count = nnx.BatchStat(start.count)
        check_fields(self)

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

        Args:
            x: the input, any shape, real or complex; integers are computed in float32.
            use_running_average: overrides the module's.
            mask: which positions count, as in `jaxbn.linen`.
            segment_ids: the segment of each example, as in `jaxbn.linen`.
            scale: in place of a learned one, as in `jaxbn.linen`.
            bias: likewise.
            residual: added before the activation, of the shape of `x`.
            update_stats: as in `jaxbn.linen`.

        Returns:
            The normalized input, of the shape of `x`.

        Raises:
            TypeError: an argument is of a wrong kind.
            ValueError: a value is out of range, a shape does not fit `x`, or
                `use_running_average` is given nowhere.

        Warns:
            UserWarning: `x` has one value per feature in training: it is normalized to
                0, and nothing is updated.
        """
        arrays = CallArrays(mask, segment_ids, scale, bias, residual)
        return _call(self, x, arrays, use_running_average, update_stats)

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Used by `nnx.view`: another module on the same variables.

        Args:
          use_running_average: as that of the constructor.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average


def _call(
    norm: BatchNorm,
    x: Shaped[Array, "*n"],
    arrays: CallArrays,
    use_running_average: bool | None,
    update_stats: bool | None,
    renorm: Limits | None = None,
) -> Inexact[Array, "*n"]:
    """A call of either module: reads its variables, and writes them."""
    if use_running_average is None:
        use_running_average = check_train_flag(norm.use_running_average)
    params = {"scale": norm.scale, "bias": norm.bias}
    learned = {k: None if p is None else p[...] for k, p in params.items()}
    scale, bias = affine_of(norm, learned, arrays)
    given = None
    if norm.promote_dtype is not None:
        all_five = x, norm.mean[...], norm.var[...], scale, bias
        x, *given, scale, bias = norm.promote_dtype(all_five, dtype=norm.dtype)
    call = lift_call(
        norm,
        x,
        arrays,
        use_running_average=use_running_average,
        update_stats=update_stats,
        renorm=renorm,
    )
    counts = counts_updates(norm)
    if counts:
        check_counts(hasattr(norm, "count"))
    names = names_of_state(counts=counts, has=partial(hasattr, norm))
    variables = {name: getattr(norm, name) for name in names}
    state = LayerState.from_variables({k: v[...] for k, v in variables.items()})
    y, new = call_layer(call, scale, bias, state, given)
    if new is not None:
        for name, value in new.as_variables().items():
            variables[name].set_value(value)
    return y


class BatchRenorm(BatchNorm):
    r"""Batch norm corrected towards the running statistics, for small batches.

    $$y = a\left(\gamma\left(\frac{x - \mu_B}{\sigma_B}\,r + d\right) + \beta\right)$$

    The counterpart of `jaxbn.linen.BatchRenorm`. It takes the arguments of `BatchNorm`
    (`momentum`: `new = momentum * old + (1 - momentum) * batch`, PyTorch's is 1 minus
    this one), and:

    Args:
        max_scale: the largest correction of the deviation, at least 1; or its schedule,
            a function of the number of updates, such as one of optax. The layer then
            has a `count`.
        max_shift: the largest of the mean, in running deviations, at least 0; or its
            schedule.

    Raises:
        TypeError: an argument of the constructor is of a wrong kind.
        ValueError: `max_scale` is below 1, `max_shift` is negative, or as for
            `BatchNorm`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxbn.nnx import BatchRenorm
        >>> norm = BatchRenorm(1, epsilon=0.0, rngs=nnx.Rngs(0))
        >>> norm(jnp.array([[1.0], [5.0]])).tolist()  # as in inference, by 0 and 1
        [[1.0], [5.0]]

    References:
        Ioffe 2017, https://arxiv.org/abs/1702.03275.
    """

    def __init__(
        self,
        num_features: int | Sequence[int],
        *,
        max_scale: Limit = 3.0,
        max_shift: Limit = 5.0,
        rngs: Rngs,
        **fields: Any,
    ):
        """Makes parameters and running statistics."""
        check_renorm(max_scale, max_shift)
        self.max_scale = max_scale
        self.max_shift = max_shift
        super().__init__(num_features, rngs=rngs, **fields)

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
        """As `BatchNorm`, with limits that the call may set.

        Args:
            x: the input, any shape, real floating point.
            use_running_average: as for `BatchNorm`, like all down to `update_stats`.
            mask: which positions count.
            segment_ids: the segment of each example.
            scale: in place of a learned one.
            bias: likewise.
            residual: added before the activation.
            update_stats: whether the running statistics are updated.
            max_scale: overrides the module's; may be traced.
            max_shift: overrides the module's; may be traced.

        Returns:
            The normalized input, of the shape of `x`.

        Raises:
            TypeError: an argument is of a wrong kind.
            ValueError: as for `BatchNorm`, or a limit is out of range.
        """
        renorm = renorm_of(self, max_scale, max_shift)
        arrays = CallArrays(mask, segment_ids, scale, bias, residual)
        return _call(self, x, arrays, use_running_average, update_stats, renorm)
