# SPDX-License-Identifier: Apache-2.0
"""One call of a layer, for Linen and NNX alike.

Which statistics normalize the batch, whether the running ones are updated, and how.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, Integer, Shaped

from jaxbn._checks.arrays import (
    check_activation,
    check_epsilon,
    has_one_value,
    warn_of_one_value,
)
from jaxbn._checks.axes import check_part_size
from jaxbn._checks.kinds import is_complex
from jaxbn._checks.models import check_given_once
from jaxbn._checks.segments import check_num_segments
from jaxbn._checks.statistics import check_momentum, check_no_schedule
from jaxbn._core.affine import Activation
from jaxbn._core.moments import batch_moments
from jaxbn._core.types import Moments, RunningStats
from jaxbn._flax.records import LayerState, add_to_record
from jaxbn._functions.batch_norm import normalize_by_own
from jaxbn._functions.lifting import (
    Lifted,
    lift,
    lift_params,
    lift_statistics,
    lift_target,
)
from jaxbn._functions.moments import merge_moments
from jaxbn._functions.normalize import normalize_by
from jaxbn._functions.running_stats import init_running_stats, update_running_stats
from jaxbn._functions.settings import BatchSettings, RenormSettings, UpdateSettings

SETTLED = 2.0**24
"""Updates after which nothing is left of the start; float32 counts no further."""


@runtime_checkable
class Fields(Protocol):
    """The fields of a module, Linen's or NNX's, that decide what a call does."""

    axis: int | Sequence[int]
    epsilon: float | Float[Array, ""]
    dtype: DTypeLike | None
    axis_name: str | Sequence[str] | None
    axis_index_groups: Sequence[Sequence[int]] | None
    virtual_batch_size: int | None
    num_segments: int | None
    activation: Activation | None
    momentum: float | Float[Array, ""] | None
    unbiased: bool
    debias: bool
    frozen: bool


@runtime_checkable
class RenormFields(Protocol):
    """The fields that batch renorm has too."""

    max_scale: "Limit"
    max_shift: "Limit"


Limit = float | Callable[[Any], Any]
"""Of a correction, or its schedule over the layer's updates, as of optax."""


class CallArrays(NamedTuple):
    """What a call gives besides `x`."""

    mask: Shaped[Array, "..."] | None
    segment_ids: Integer[Array, " b"] | None
    scale: Inexact[Array, "..."] | None
    bias: Inexact[Array, "..."] | None
    residual: Inexact[Array, "*n"] | None


class Limits(NamedTuple):
    """How far batch renorm corrects at most, when a call is made."""

    max_scale: Limit | Float[Array, ""]
    max_shift: Limit | Float[Array, ""]

    def after(self, count: Float[Array, "..."]) -> RenormSettings:
        """The limits of each feature, after `count` updates of its own."""

        def limit(value: Limit | Float[Array, ""]) -> float | Float[Array, "..."]:
            if not callable(value):
                return value
            updates = jnp.ravel(count).astype(jnp.int32)
            return jnp.asarray(jax.vmap(value)(updates)).reshape(count.shape)

        return RenormSettings(limit(self.max_scale), limit(self.max_shift))


class LiftedCall(NamedTuple):
    """A call that has been checked, and what it does with the statistics."""

    lifted: Lifted
    update: UpdateSettings
    renorm: Limits | None
    use_running_average: bool
    update_stats: bool


def check_fields(layer: Fields) -> None:
    """Checks what can be known of the fields before a call."""
    check_momentum(layer.momentum)
    check_epsilon(layer.epsilon)
    check_part_size(layer.virtual_batch_size)
    check_num_segments(layer.num_segments)
    check_activation(layer.activation)


def settings_of(layer: Fields) -> BatchSettings:
    """How a layer cuts and normalizes a batch."""
    return BatchSettings(
        axis=layer.axis,
        epsilon=layer.epsilon,
        virtual_batch_size=layer.virtual_batch_size,
        num_segments=layer.num_segments,
        axis_name=layer.axis_name,
        axis_index_groups=layer.axis_index_groups,
        activation=layer.activation,
        dtype=layer.dtype,
    )


def renorm_of(
    layer: RenormFields,
    max_scale: float | Float[Array, ""] | None,
    max_shift: float | Float[Array, ""] | None,
) -> Limits:
    """The limits of the corrections: the call's, or else the layer's."""
    check_no_schedule(max_scale=max_scale, max_shift=max_shift)
    return Limits(
        max_scale=layer.max_scale if max_scale is None else max_scale,
        max_shift=layer.max_shift if max_shift is None else max_shift,
    )


def counts_updates(layer: Fields) -> bool:
    """Whether a call needs to know how many updates there were before."""
    limits = (getattr(layer, name, None) for name in Limits._fields)
    return layer.momentum is None or layer.debias or any(map(callable, limits))


def start_for(dtype: DTypeLike, shape: Sequence[int]) -> RunningStats:
    """Returns the statistics before the first update, of a complex mean for complex."""
    start = init_running_stats(shape)
    mean = start.mean.astype(jnp.complex64) if is_complex(dtype) else start.mean
    return start._replace(mean=mean)


def lift_call(
    layer: Fields,
    x: Shaped[Array, "*n"],
    arrays: CallArrays,
    *,
    use_running_average: bool,
    update_stats: bool | None,
    renorm: Limits | None,
) -> LiftedCall:
    """Checks and lifts a call, once.

    Which statistics are used and whether they are updated are two choices; by default
    the running statistics are updated exactly when they are not used. With `renorm` the
    batch is corrected towards them. A frozen layer uses them and updates nothing,
    whatever the call asks for.
    """
    if update_stats is None:
        update_stats = not use_running_average
    if layer.frozen:
        use_running_average, update_stats = True, False
    settings = settings_of(layer)
    if use_running_average and not update_stats:
        settings = settings.without_statistics
    update = UpdateSettings(
        momentum=layer.momentum, unbiased=layer.unbiased, debias=layer.debias
    )
    x = _as_flax_takes(x)
    lifted = lift(
        x,
        settings,
        mask=arrays.mask,
        segment_ids=arrays.segment_ids,
        residual=arrays.residual,
        flax_mask=True,
    )
    return LiftedCall(lifted, update, renorm, use_running_average, update_stats)


def _as_flax_takes(x: Shaped[Array, "*n"]) -> Shaped[Array, "*n"]:
    """Integers and booleans as float32."""
    kinds = (jnp.integer, jnp.bool_)
    if hasattr(x, "dtype") and any(jnp.issubdtype(x.dtype, kind) for kind in kinds):
        return x.astype(jnp.float32)
    return x


def affine_of(
    layer: Fields,
    learned: dict[str, Inexact[Array, "*c"] | None],
    arrays: CallArrays,
) -> tuple[Inexact[Array, "..."] | None, Inexact[Array, "..."] | None]:
    """Scale and bias: the call's, or the layer's, which have no gradient if frozen."""
    for name, own in learned.items():
        given = getattr(arrays, name)
        check_given_once(name, learned=own is not None, given=given is not None)
    if layer.frozen:
        learned = lax.stop_gradient(learned)
    scale = learned["scale"] if arrays.scale is None else arrays.scale
    bias = learned["bias"] if arrays.bias is None else arrays.bias
    return scale, bias


def call_layer(
    call: LiftedCall,
    scale: Inexact[Array, "..."] | None,
    bias: Inexact[Array, "..."] | None,
    state: LayerState,
    given: Sequence[Inexact[Array, "*c"]] | None = None,
) -> tuple[Inexact[Array, "*n"], LayerState | None]:
    """Normalizes the batch; returns the output, and the new state if there is one.

    Inference is by the given mean and variance, if there are any, else by those of the
    state. Where the state has a record, the moments go there instead of to the running
    statistics.
    """
    lifted, update, renorm, use_running_average, update_stats = call
    if update_stats and state.layerwise:
        use_running_average = True
    elif update_stats or not use_running_average:
        own_batch, axes = lifted.layout.own_batch, lifted.layout.feature_axes
        if own_batch is not None and has_one_value(own_batch, axes):
            warn_of_one_value(own_batch, axes)
            update_stats = False
    params = lift_params(lifted, scale, bias)
    statistics = lift_statistics(lifted, *(given or state[:2]))
    moments = None
    if use_running_average:
        y = normalize_by(lifted, params, *statistics)
        if update_stats:
            moments = batch_moments(lifted.layout, lifted.batch)
    else:
        target = None
        if renorm is not None:
            counted = state._replace(count=state.stats.count)  # 0 where none is kept
            known = _with_known_count(counted, update.momentum)
            target = lift_target(lifted, known, renorm.after(known.count))
        y, moments = normalize_by_own(lifted, params, target)
    if moments is None or not update_stats:
        return y, None
    if lifted.layout.virtual_batch_size is not None:
        moments = merge_moments(moments)
    return y, _updated(state, moments, update)


def _updated(
    state: LayerState, moments: Moments, settings: UpdateSettings
) -> LayerState:
    """The state after a batch with these moments."""
    if state.record is not None:
        record = add_to_record(state.record, moments)
        state, moments = state._replace(record=record), Moments(*record)
        if state.pending is None:
            return state
    stats = update_running_stats(
        _with_known_count(state, settings.momentum),
        moments,
        momentum=settings.momentum,
        unbiased=settings.unbiased,
        debias=settings.debias,
    )
    return state.with_stats(stats)


def _with_known_count(
    state: LayerState, momentum: float | Float[Array, ""] | None
) -> RunningStats:
    """The running statistics, with a count for those of a layer that does not count.

    These are no longer at the start although nothing was counted. With a momentum they
    are taken for settled, and updated as that layer would have updated them; the plain
    average of all updates takes them for one.
    """
    stats = state.stats
    if state.count is None:
        return stats
    at_start = (stats.mean == 0) & (stats.var == 1)
    if not stats.count.ndim:
        at_start = jnp.all(at_start)
    loaded = (stats.count == 0) & ~at_start
    known = jnp.asarray(1 if momentum is None else SETTLED, stats.count.dtype)
    return stats._replace(count=jnp.where(loaded, known, stats.count))
