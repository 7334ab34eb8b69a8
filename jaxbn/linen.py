# SPDX-License-Identifier: Apache-2.0
"""Batch norm as a Flax Linen module: state only, the arithmetic is elsewhere."""

from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, Shaped

from jaxbn._layer import call_layer, limits_of, names_held, start_for
from jaxbn._lift import lift_input
from jaxbn._moments import compute_moments
from jaxbn._normalize import Activation


class BatchNorm(nn.Module):
    r"""Batch norm with the names, parameters and `batch_stats` of `flax.linen`.

    $$y = a\left(\gamma\,\frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\right)$$

    with the batch's mean and variance in training, the running ones in inference. To
    use it in an existing model, change the import. The `params` are `scale` and `bias`,
    the `batch_stats` are `mean` and `var`, of the shape of the feature axes, so that
    checkpoints move both ways. The numerics are those of `jaxbn.batch_norm`; in
    particular the variance is right at any mean, and the output has the dtype of the
    input unless `dtype` says otherwise.

    Attributes:
        use_running_average: normalize by the running statistics (inference) instead of
            the batch's; here or at the call.
        axis: the feature axis or axes.
        momentum: of the running statistics, in [0, 1):
            `new = momentum * old + (1 - momentum) * batch`. PyTorch's momentum is 1
            minus this one. None: the plain average of all updates, whose `count` is
            kept in `batch_stats` too.
        epsilon: added to the variance, at least 0.
        dtype: of the output; None for that of the input.
        param_dtype: of `scale` and `bias`; the running statistics are always float32,
            the mean of a complex input complex64.
        use_bias: whether to add a learned bias.
        use_scale: whether to multiply by a learned scale.
        bias_init: initializer of the bias.
        scale_init: initializer of the scale.
        axis_name: the named axis or axes of `shard_map`, `pmap` or `vmap` over which
            batch statistics are synchronised, counts included; not needed under `jit`,
            nor bound at initialization.
        axis_index_groups: groups along `axis_name`, each a batch of its own.
        virtual_batch_size: normalize contiguous parts of so many examples, each by its
            own moments (ghost batch norm), as in `jaxbn.batch_norm`; the running
            statistics take the moments of all of them together.
        unbiased: store the variance with Bessel's correction, as PyTorch does.
        debias: leave the initial 0 and 1 out of the running statistics, so that
            inference is right from the first update on; keeps a `count` in
            `batch_stats` too.
        activation: applied last, such as `jax.nn.relu`; its backward stores no mask.

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
    momentum: float | None = 0.99
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Callable = nn.initializers.zeros
    scale_init: Callable = nn.initializers.ones
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Sequence[Sequence[int]] | None = None
    virtual_batch_size: int | None = None
    unbiased: bool = False
    debias: bool = False
    activation: Activation | None = None

    def __call__(
        self,
        x: Inexact[Array, "*n"],
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
        residual: Inexact[Array, "*n"] | None = None,
        update_stats: bool | None = None,
    ) -> Inexact[Array, "*n"]:
        """Normalizes `x`, and in training updates the running statistics.

        Which statistics are used, and whether they are updated, are two choices:

        - `use_running_average=False`: training. With `update_stats=False` the batch's
          statistics leave no trace, and `batch_stats` need not be mutable;
        - `use_running_average=True`: inference. With `update_stats=True` the output is
          the same, and the statistics move towards this batch's.

        At initialization nothing is updated.

        Args:
            x: the input, any shape, real or complex.
            use_running_average: as the field; give one of the two.
            mask: which positions count, as in `jaxbn.compute_moments`; elsewhere the
                output is 0, in training and in inference.
            residual: added before the activation, of the shape of `x`.
            update_stats: whether the running statistics are updated; None for where
                they are not used.

        Returns:
            The normalized input, of the shape of `x`.

        Raises:
            TypeError: an argument is of a wrong kind.
            ValueError: a value is out of range or a shape does not fit `x`;
                `use_running_average` is given twice or not at all; or in training `x`
                has one value per feature.
        """
        return self._call(
            x, use_running_average, mask, residual, update_stats, limits=None
        )

    @nn.compact
    def _call(self, x, use_running_average, mask, residual, update_stats, *, limits):
        """With limits, those of batch renorm's corrections."""
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        x, layout = lift_input(x, self.axis)
        features = layout.features
        start = start_for(x.dtype, features)
        kept = {
            name: self.variable("batch_stats", name, getattr, start, name)
            for name in names_held(self, partial(self.has_variable, "batch_stats"))
        }
        scale = bias = None
        if self.use_scale:
            scale = self.param("scale", self.scale_init, features, self.param_dtype)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, features, self.param_dtype)
        state = {name: variable.value for name, variable in kept.items()}
        if self.is_initializing():
            # No axis is bound, and a batch of one example will do.
            if not use_running_average:
                moments = compute_moments(x, axis=layout.feature_axes, mask=mask)
                state = state | {"mean": moments.mean, "var": moments.var}
            use_running_average, update_stats = True, False
        y, new = call_layer(
            self,
            x,
            state,
            scale,
            bias,
            axes=layout.feature_axes,
            mask=mask,
            residual=residual,
            use_running_average=use_running_average,
            update_stats=update_stats,
            limits=limits,
        )
        if new is not state:
            for name, variable in kept.items():
                variable.value = new[name]
        return y


class BatchRenorm(BatchNorm):
    r"""Batch norm corrected towards the running statistics, for small batches.

    $$y = a\left(\gamma\left(\frac{x - \mu_B}{\sigma_B}\,r + d\right) + \beta\right)$$

    in training, with the corrections r and d of `jaxbn.batch_renorm` within the limits;
    in inference as `BatchNorm`. All fields of `BatchNorm`, the same `params` and
    `batch_stats`. The statistics must lead: start with limits of 1 and 0 and open them,
    or use `debias`, which makes the running statistics right from the first step.

    Attributes:
        max_scale: the largest correction of the deviation, at least 1.
        max_shift: the largest of the mean, in running deviations, at least 0.
        momentum: of the running statistics:
            `new = momentum * old + (1 - momentum) * batch`. PyTorch's momentum is 1
            minus this one.

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

    max_scale: float = 3.0
    max_shift: float = 5.0

    def __call__(
        self,
        x: Float[Array, "*n"],
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
        residual: Float[Array, "*n"] | None = None,
        update_stats: bool | None = None,
        max_scale: float | Float[Array, ""] | None = None,
        max_shift: float | Float[Array, ""] | None = None,
    ) -> Float[Array, "*n"]:
        """As `BatchNorm`, with limits that a schedule may open.

        Args:
            x: the input, any shape, real floating point.
            use_running_average: as for `BatchNorm`, like `mask`, `residual` and
                `update_stats`.
            mask: which positions count.
            residual: added before the activation.
            update_stats: whether the running statistics are updated.
            max_scale: wins over the field; may be traced.
            max_shift: likewise.

        Returns:
            The normalized input, of the shape of `x`.

        Raises:
            TypeError: an argument is of a wrong kind.
            ValueError: as for `BatchNorm`, or a limit is out of range.
        """
        limits = limits_of(self, max_scale, max_shift)
        return self._call(
            x, use_running_average, mask, residual, update_stats, limits=limits
        )
