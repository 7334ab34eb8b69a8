# SPDX-License-Identifier: Apache-2.0
"""What a layer records while the statistics of a population are estimated.

The one who estimates puts three arrays beside a layer's running statistics; a layer
that finds them there adds the moments of each batch to them, and leaves the running
statistics alone. They are part of the state, so that they go wherever the running
statistics go: through `jit`, `scan`, `vmap`, `shard_map`, to other processes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact

from jaxbn._complex import merge_stacked
from jaxbn._statistics import expand_last
from jaxbn._stats_checks import check_same_features
from jaxbn._types import Moments

State = dict[str, Inexact[Array, "..."]]
"""What a layer keeps, by name: `mean`, `var`, perhaps `count` and a record."""

PREFIXES = {False: "population_", True: "layerwise_population_"}
"""By whether the layers that are recorded normalize by their running statistics."""


class Record(NamedTuple):
    """Moments with a count for each feature.

    So that all three have the axes of the running mean, whatever `scan` or `vmap` has
    stacked there.
    """

    mean: Inexact[Array, "*c"]
    var: Float[Array, "*c"]
    count: Float[Array, "*c"]


def record_names(*, layerwise: bool) -> tuple[str, ...]:
    """Returns under which names a layer finds a record."""
    return tuple(PREFIXES[layerwise] + field for field in Record._fields)


def names_found(has: Callable[[str], bool]) -> tuple[str, ...]:
    """Returns the names of the record that is there, or none."""
    for layerwise in PREFIXES:
        names = record_names(layerwise=layerwise)
        if has(names[0]):
            return names
    return ()


def is_layerwise(state: State) -> bool:
    """Whether there is a record of what comes from layers as they are in inference."""
    return record_names(layerwise=True)[0] in state


def empty_record(mean: Array, var: Array) -> Record:
    """Returns a record of nothing for a layer with these running statistics."""
    return Record(jnp.zeros_like(mean), jnp.zeros_like(var), jnp.zeros_like(var))


def add_to_record(state: State, names: tuple[str, ...], moments: Moments) -> State:
    """Merges a batch's moments into the record, exactly: a layer may run twice."""
    check_same_features(state["mean"].shape, moments.mean.shape)
    held = Record(*(state[name] for name in names))
    count = jnp.broadcast_to(
        expand_last(moments.count, moments.var.ndim), moments.var.shape
    )
    both = Moments(
        *(
            jnp.stack([old, lax.stop_gradient(new).astype(old.dtype)])
            for old, new in zip(held, (*moments[:2], count), strict=True)
        )
    )
    return state | dict(zip(names, merge_stacked(both, 0), strict=True))
