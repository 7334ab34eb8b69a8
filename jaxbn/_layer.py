# SPDX-License-Identifier: Apache-2.0
"""One call of a layer, for Linen and NNX alike: which statistics, and how they move."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Inexact, Shaped

from jaxbn._checks import is_complex
from jaxbn._functional import batch_norm, batch_renorm
from jaxbn._moments import compute_moments, merge_moments
from jaxbn._normalize import normalize
from jaxbn._record import State, add_to_record, is_layerwise, names_found
from jaxbn._running_stats import init_running_stats, update_running_stats
from jaxbn._types import RunningStats

FIELDS_OF_BATCH = ("virtual_batch_size", "axis_name", "axis_index_groups")
FIELDS_OF_MAP = ("epsilon", "activation", "dtype")
FIELDS_OF_UPDATE = ("momentum", "unbiased", "debias")


def fields(layer: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the fields of a module as keyword arguments."""
    return {name: getattr(layer, name) for name in names}


def limits_of(layer: Any, max_scale: Any, max_shift: Any) -> dict[str, Any]:
    """Returns the limits of the corrections: the call's, or else the layer's."""
    return {
        "max_scale": layer.max_scale if max_scale is None else max_scale,
        "max_shift": layer.max_shift if max_shift is None else max_shift,
    }


def start_for(dtype: DTypeLike, num_features: int | Sequence[int]) -> RunningStats:
    """Returns the statistics before the first update; of complex numbers, if so."""
    start = init_running_stats(num_features)
    mean = start.mean.astype(jnp.complex64) if is_complex(dtype) else start.mean
    return start._replace(mean=mean)


def names_kept(layer: Any) -> tuple[str, ...]:
    """Returns which of the `RunningStats` a layer has to keep."""
    counted = layer.momentum is None or layer.debias
    return ("mean", "var", "count") if counted else ("mean", "var")


def names_held(layer: Any, has: Callable[[str], bool]) -> tuple[str, ...]:
    """Returns those, and those of a record, where one is there."""
    return names_kept(layer) + names_found(has)


def call_layer(
    layer: Any,
    x: Inexact[Array, "*n"],
    state: State,
    scale: Inexact[Array, "*c"] | None,
    bias: Inexact[Array, "*c"] | None,
    *,
    axes: tuple[int, ...],
    mask: Shaped[Array, "..."] | None,
    residual: Inexact[Array, "*n"] | None,
    use_running_average: bool,
    update_stats: bool | None,
    limits: dict[str, Any] | None,
) -> tuple[Inexact[Array, "*n"], State]:
    """Normalizes by the running or the batch's statistics, and moves the running ones.

    Which statistics are used, and whether they are updated, are two choices; updated
    are, unless said, those that are not used. Where `state` has a record, the moments
    go there instead. `layer` has the fields named above. `limits` are those of
    `batch_renorm`'s corrections; without them, `batch_norm`.
    """
    if update_stats is None:
        update_stats = not use_running_average
    if update_stats and is_layerwise(state):
        use_running_average = True
    count = state.get("count", jnp.zeros_like(state["var"], shape=()))
    stats = RunningStats(state["mean"], state["var"], count)
    shared: dict[str, Any] = {"axis": axes, "mask": mask}
    batch: dict[str, Any] = shared | fields(layer, FIELDS_OF_BATCH)
    map_: dict[str, Any] = {"residual": residual} | fields(layer, FIELDS_OF_MAP)
    moments = None
    if use_running_average:
        y = normalize(x, stats.mean, stats.var, scale, bias, **shared, **map_)
        if update_stats:
            moments = compute_moments(x, **batch)
    elif limits is None:
        y, moments = batch_norm(x, scale, bias, **batch, **map_)
    else:
        y, moments = batch_renorm(x, stats, scale, bias, **limits, **batch, **map_)
    if moments is None or not update_stats:
        return y, state
    if layer.virtual_batch_size is not None:
        moments = merge_moments(moments)
    if recorded := names_found(state.__contains__):
        return y, add_to_record(state, recorded, moments)
    new = update_running_stats(stats, moments, **fields(layer, FIELDS_OF_UPDATE))
    return y, {name: getattr(new, name) for name in state}
