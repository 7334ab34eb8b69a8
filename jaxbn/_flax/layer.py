# SPDX-License-Identifier: Apache-2.0
"""One call of a layer, for Linen and NNX alike.

Which statistics normalize the batch, whether the running ones are updated, and how.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, Shaped

from jaxbn._checks.kinds import is_complex
from jaxbn._core.affine import Activation, normalize_by_given
from jaxbn._core.moments import batch_moments
from jaxbn._core.types import Moments, RunningStats
from jaxbn._flax.records import LayerState, add_to_record
from jaxbn._functions.batch_norm import train
from jaxbn._functions.lifting import (
    Lifted,
    lift,
    lift_params,
    lift_statistics,
    lift_target,
)
from jaxbn._functions.moments import merge_moments
from jaxbn._functions.running_stats import init_running_stats, update_running_stats
from jaxbn._functions.settings import BatchSettings, RenormSettings, UpdateSettings


@runtime_checkable
class Fields(Protocol):
    """The fields of a module, Linen's or NNX's, that decide what a call does."""

    axis: int | Sequence[int]
    epsilon: float
    dtype: DTypeLike | None
    axis_name: str | Sequence[str] | None
    axis_index_groups: Sequence[Sequence[int]] | None
    virtual_batch_size: int | None
    activation: Activation | None
    momentum: float | None
    unbiased: bool
    debias: bool


@runtime_checkable
class RenormFields(Protocol):
    """The fields that batch renorm has too."""

    max_scale: float
    max_shift: float


class LiftedCall(NamedTuple):
    """A call that has been checked, and what it does with the statistics."""

    lifted: Lifted
    update: UpdateSettings
    renorm: RenormSettings | None
    use_running_average: bool
    update_stats: bool


def settings_of(layer: Fields) -> BatchSettings:
    """How a layer cuts and normalizes a batch."""
    return BatchSettings(
        axis=layer.axis,
        epsilon=layer.epsilon,
        virtual_batch_size=layer.virtual_batch_size,
        axis_name=layer.axis_name,
        axis_index_groups=layer.axis_index_groups,
        activation=layer.activation,
        dtype=layer.dtype,
    )


def renorm_of(
    layer: RenormFields,
    max_scale: float | Float[Array, ""] | None,
    max_shift: float | Float[Array, ""] | None,
) -> RenormSettings:
    """The limits of the corrections: the call's, or else the layer's."""
    return RenormSettings(
        max_scale=layer.max_scale if max_scale is None else max_scale,
        max_shift=layer.max_shift if max_shift is None else max_shift,
    )


def counts_updates(layer: Fields) -> bool:
    """Whether the update needs to know how many there were before."""
    return layer.momentum is None or layer.debias


def start_for(dtype: DTypeLike, num_features: int | Sequence[int]) -> RunningStats:
    """Returns the statistics before the first update, of a complex mean for complex."""
    start = init_running_stats(num_features)
    mean = start.mean.astype(jnp.complex64) if is_complex(dtype) else start.mean
    return start._replace(mean=mean)


def lift_call(
    layer: Fields,
    x: Inexact[Array, "*n"],
    *,
    mask: Shaped[Array, "..."] | None,
    residual: Inexact[Array, "*n"] | None,
    use_running_average: bool,
    update_stats: bool | None,
    renorm: RenormSettings | None,
) -> LiftedCall:
    """Checks and lifts a call, once.

    Which statistics are used and whether they are updated are two choices; by default
    the running statistics are updated exactly when they are not used. With `renorm` the
    batch is corrected towards them.
    """
    if update_stats is None:
        update_stats = not use_running_average
    settings = settings_of(layer)
    if use_running_average and not update_stats:
        settings = settings.without_statistics
    update = UpdateSettings(
        momentum=layer.momentum, unbiased=layer.unbiased, debias=layer.debias
    )
    lifted = lift(x, settings, mask=mask, residual=residual)
    return LiftedCall(lifted, update, renorm, use_running_average, update_stats)


def call_layer(
    call: LiftedCall,
    scale: Inexact[Array, "*c"] | None,
    bias: Inexact[Array, "*c"] | None,
    state: LayerState,
) -> tuple[Inexact[Array, "*n"], LayerState | None]:
    """Normalizes the batch; returns the output, and the new state if there is one.

    Where the state has a record, the moments go there instead of to the running
    statistics.
    """
    lifted, update, renorm, use_running_average, update_stats = call
    if update_stats and state.layerwise:
        use_running_average = True
    params = lift_params(lifted, scale, bias)
    mean, var = lift_statistics(lifted, state.mean, state.var)
    moments = None
    if use_running_average:
        y = normalize_by_given(*lifted, params, mean, var)
        if update_stats:
            moments = batch_moments(lifted.layout, lifted.batch)
    elif renorm is None:
        y, moments = train(lifted, params)
    else:
        y, moments = train(lifted, params, lift_target(lifted, state.stats, renorm))
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
        return state._replace(record=add_to_record(state.record, moments))
    stats = update_running_stats(
        state.stats,
        moments,
        momentum=settings.momentum,
        unbiased=settings.unbiased,
        debias=settings.debias,
    )
    return state.with_stats(stats)
