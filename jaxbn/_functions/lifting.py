# SPDX-License-Identifier: Apache-2.0
"""Arguments checked, and brought to the rank and dtype of the computation: once."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact, Integer, Shaped

from jaxbn._checks.arrays import (
    check_activation,
    check_dtype,
    check_elementwise,
    check_epsilon,
    check_features,
    check_inexact,
    check_mask,
    check_params,
    check_reading,
    check_real,
    check_residual,
)
from jaxbn._checks.axes import (
    check_axis,
    check_axis_name,
    check_groups,
    check_virtual_batch_size,
    check_vmap_names,
)
from jaxbn._checks.segments import check_segments
from jaxbn._checks.statistics import check_limits_fit, check_no_schedule, check_renorm
from jaxbn._core.affine import Activation, Params, Static, is_of_jax
from jaxbn._core.collectives import Sync
from jaxbn._core.layout import (
    Batch,
    Layout,
    Weights,
    compute_dtype,
    vector_dtype,
    zero_where_left_out,
)
from jaxbn._core.meshes import manual_axes, varying_axes
from jaxbn._core.renorm import Target
from jaxbn._core.types import RunningStats
from jaxbn._functions.settings import BatchSettings, RenormSettings


class Lifted(NamedTuple):
    """A checked call: what is static, and what is sharded with the batch."""

    static: Static
    batch: Batch
    epsilon: Float[Array, ""] | None  # where it is traced
    activation: Activation | None  # where it is no part of the derivative
    dtype: np.dtype  # of the output after it

    @property
    def layout(self) -> Layout:
        """Axes, shape, and who shares statistics."""
        return self.static.layout

    def activate(self, y: Inexact[Array, "*n"]) -> Inexact[Array, "*n"]:
        """Applies an activation that may own or close over values."""
        if self.activation is None:
            return y
        result = jnp.asarray(self.activation(y))
        check_elementwise(result, y.shape)
        y = zero_where_left_out(result.astype(self.dtype), self.batch.weights)
        return self.layout.zero_in_no_segment(y, self.batch.segments)


def lift(
    x: Inexact[Array, "*n"],
    settings: BatchSettings,
    *,
    mask: Shaped[Array, "..."] | None = None,
    segment_ids: Integer[Array, " b"] | None = None,
    residual: Inexact[Array, "*n"] | None = None,
    flax_mask: bool = False,
) -> Lifted:
    """Checks and lifts all of a call that does not come one value per feature.

    With `flax_mask` the mask may be of a shape that only Flax takes.
    """
    check_inexact(x)
    axes = check_axis(settings.axis, x.shape)
    sync = _lift_sync(settings.axis_name, settings.axis_index_groups)
    check_virtual_batch_size(
        settings.virtual_batch_size, x.shape, axes, () if sync is None else sync.batches
    )
    epsilon = check_epsilon(settings.epsilon)
    check_activation(settings.activation)
    dtype = x.dtype
    if settings.dtype is not None:
        dtype = check_dtype(settings.dtype, x.dtype)
    if residual is not None:
        check_residual(residual, x)
    x = jnp.asarray(x)
    num_segments = check_segments(segment_ids, settings.num_segments, x.shape, axes)
    layout = Layout(x.shape, axes, sync, settings.virtual_batch_size, num_segments)
    if mask is not None and flax_mask:
        mask = jnp.asarray(mask)
        mask = mask.reshape(check_reading(mask, x.shape, axes))
    weights = _lift_mask(mask, layout, compute_dtype(x))
    batch = Batch(x, weights, residual)
    if segment_ids is not None and num_segments is not None:
        segments = _lift_segments(jnp.asarray(segment_ids), num_segments)
        batch = batch._replace(segments=segments)
    known, traced = epsilon, None
    if isinstance(known, Array):
        known, traced = 0.0, known.astype(compute_dtype(x))
    if settings.activation is None or is_of_jax(settings.activation):
        static = Static(layout, known, settings.activation, dtype)
        return Lifted(static, batch, traced, None, dtype)
    # The activation gets what it would within: nothing is rounded before it.
    static = Static(layout, known, None, vector_dtype(x))
    return Lifted(static, batch, traced, settings.activation, dtype)


def lift_params(
    lifted: Lifted,
    scale: Inexact[Array, "..."] | None,
    bias: Inexact[Array, "..."] | None,
) -> Params:
    """Checks and lifts what is learned."""
    x = lifted.batch.x
    check_params(x, lifted.layout.feature_axes, scale=scale, bias=bias)
    dtype = vector_dtype(x)
    return Params(
        None if scale is None else jnp.asarray(scale, dtype),
        None if bias is None else jnp.asarray(bias, dtype),
        lifted.epsilon,
    )


def lift_statistics(
    lifted: Lifted, mean: Inexact[Array, "*c"], var: Float[Array, "*c"]
) -> tuple[Inexact[Array, "*c"], Float[Array, "*c"]]:
    """Checks and lifts statistics to normalize by."""
    x = lifted.batch.x
    layout = lifted.layout
    check_features(x, layout.feature_axes, layout.num_segments, mean=mean, var=var)
    return jnp.asarray(mean, vector_dtype(x)), jnp.asarray(var, compute_dtype(x))


def lift_target(
    lifted: Lifted, stats: RunningStats, settings: RenormSettings
) -> Target:
    """Checks and lifts the statistics to correct towards, and the limits."""
    limits = settings._asdict()
    check_no_schedule(**limits)
    check_renorm(**limits)
    x = lifted.batch.x
    check_real(x, name="x", reason="batch renorm is not defined for complex numbers")
    mean, var = lift_statistics(lifted, stats.mean, stats.var)
    check_limits_fit(mean.shape, **limits)
    dtype = compute_dtype(x)
    return Target(
        mean,
        var,
        jnp.asarray(settings.max_scale, dtype),
        jnp.asarray(settings.max_shift, dtype),
    )


def _lift_sync(
    axis_name: str | Sequence[str] | None,
    axis_index_groups: Sequence[Sequence[int]] | None,
) -> Sync | None:
    """The named axes and groups; None where nothing is synchronised."""
    names = check_axis_name(axis_name)
    manual = manual_axes()
    if manual and varying_axes(lax.axis_index(manual)):  # that is, check_vma=True
        check_vmap_names(names, manual)
    groups = check_groups(axis_index_groups, names)
    return Sync(names, groups) if names else None


def _lift_segments(
    segments: Integer[Array, " b"], num_segments: int
) -> Integer[Array, " b"]:
    """The ids, with `num_segments` for all that are out of range."""
    if segments.dtype.itemsize < 4:  # some numbers of segments are no value of it
        segments = segments.astype(jnp.int32)
    inside = (segments >= 0) & (segments < num_segments)
    return jnp.where(inside, segments, num_segments)


def _lift_mask(
    mask: Shaped[Array, "..."] | None, layout: Layout, dtype: np.dtype
) -> Weights:
    """Aligns `mask` with the leading axes of `x`; integers only say what counts."""
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    check_mask(mask, layout.shape)
    if jnp.issubdtype(mask.dtype, jnp.floating):
        weights = lax.stop_gradient(mask.astype(dtype))
    else:
        weights = mask.astype(bool)
    trailing = len(layout.shape) - weights.ndim
    return weights.reshape(weights.shape + (1,) * trailing)
