# SPDX-License-Identifier: Apache-2.0
"""Batch norm as a Flax Linen module: state only, the arithmetic is elsewhere."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from jaxbn._functional import batch_norm
from jaxbn._lift import lift_input
from jaxbn._moments import compute_moments, merge_moments
from jaxbn._normalize import Activation, normalize
from jaxbn._running_stats import init_running_stats, update_running_stats
from jaxbn._types import RunningStats


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
            minus this one.
        epsilon: added to the variance, at least 0.
        dtype: of the output; None for that of the input.
        param_dtype: of `scale` and `bias`; the running statistics are always float32.
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
    momentum: float = 0.99
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
    activation: Activation | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*n"],
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
        residual: Float[Array, "*n"] | None = None,
    ) -> Float[Array, "*n"]:
        """Normalizes `x`, and in training updates the running statistics.

        At initialization nothing is updated.

        Args:
            x: the input, any shape, real floating point.
            use_running_average: as the field; give one of the two.
            mask: which positions count, as in `jaxbn.compute_moments`; elsewhere the
                output is 0, in training and in inference.
            residual: added before the activation, of the shape of `x`.

        Returns:
            The normalized input, of the shape of `x`.

        Raises:
            TypeError: an argument is of a wrong kind.
            ValueError: a value is out of range or a shape does not fit `x`;
                `use_running_average` is given twice or not at all; or in training `x`
                has one value per feature.
        """
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        x, layout = lift_input(x, self.axis)
        features = layout.features
        start = init_running_stats(features)
        mean = self.variable("batch_stats", "mean", lambda: start.mean)
        var = self.variable("batch_stats", "var", lambda: start.var)
        scale = bias = None
        if self.use_scale:
            scale = self.param("scale", self.scale_init, features, self.param_dtype)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, features, self.param_dtype)
        options = {
            "axis": layout.feature_axes,
            "epsilon": self.epsilon,
            "mask": mask,
            "residual": residual,
            "activation": self.activation,
            "dtype": self.dtype,
        }
        if use_running_average:
            return normalize(x, mean.value, var.value, scale, bias, **options)
        if self.is_initializing():
            moments = compute_moments(x, axis=layout.feature_axes, mask=mask)
            return normalize(x, moments.mean, moments.var, scale, bias, **options)
        options["axis_name"] = self.axis_name
        options["axis_index_groups"] = self.axis_index_groups
        options["virtual_batch_size"] = self.virtual_batch_size
        y, moments = batch_norm(x, scale, bias, **options)
        if self.virtual_batch_size is not None:
            moments = merge_moments(moments)
        stats = RunningStats(mean.value, var.value, jnp.zeros(()))
        stats = update_running_stats(stats, moments, momentum=self.momentum)
        mean.value, var.value = stats.mean, stats.var
        return y
