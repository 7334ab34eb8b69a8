# SPDX-License-Identifier: Apache-2.0
"""What a layer keeps: its running statistics, and a record of several batches.

A record is three arrays next to a layer's running statistics. A layer that finds them
merges the moments of each batch into them, and leaves the running statistics alone.
There are records of a population, whose statistics are estimated from them, and of the
micro-batches of one update, next to which the layer stores the running statistics that
the update will give. They are part of the state, so that they go wherever the running
statistics go: through `jit`, `scan`, `vmap`, `shard_map`, to other processes.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact

from jaxbn._checks.statistics import check_same_features
from jaxbn._core.layout import compute_dtype, vector_dtype
from jaxbn._core.meshes import shard_like
from jaxbn._core.moments import merge_stacked
from jaxbn._core.statistics import expand_last
from jaxbn._core.types import Moments, RunningStats

_PREFIXES = {False: "population_", True: "layerwise_population_"}
"""By whether the layers that are recorded normalize by their running statistics."""
_ACCUMULATED = "accumulated_"  # a record of micro-batches
_PENDING = "pending_"  # the running statistics that it gives so far


class Record(NamedTuple):
    """Moments with a count for each feature.

    So that all three have the axes of the running mean, whatever `scan` or `vmap` has
    stacked there.
    """

    mean: Inexact[Array, "*c"]
    var: Float[Array, "*c"]
    count: Float[Array, "*c"]


ACCUMULATES = _ACCUMULATED + Record._fields[0]
"""A layer has a variable of this name from `begin_accumulation` to `commit` alone."""


class LayerState(NamedTuple):
    """The variables of a layer that are not learned."""

    mean: Inexact[Array, "*c"]
    var: Float[Array, "*c"]
    count: Float[Array, "..."] | None  # only where the update needs it
    record: Record | None = None
    layerwise: bool = False  # the record is of layers as they are in inference
    pending: Mapping[str, Array] | None = (
        None  # by name; the record is of micro-batches
    )

    @classmethod
    def from_variables(cls, variables: Mapping[str, Array]) -> "LayerState":
        """Reads the state from its variables by name; see `names_of_state`."""
        count = variables.get("count")
        state = cls(variables["mean"], variables["var"], count)
        for layerwise in _PREFIXES:
            names = record_names(layerwise=layerwise)
            if names[0] in variables:
                record = Record(*(variables[name] for name in names))
                return state._replace(record=record, layerwise=layerwise)
        if ACCUMULATES not in variables:
            return state
        record = Record(*(variables[name] for name in _names_of(_ACCUMULATED)))
        pending = {k: v for k, v in variables.items() if k.startswith(_PENDING)}
        return state._replace(record=record, pending=pending)

    def as_variables(self) -> dict[str, Array]:
        """The variables by name, those alone that the layer has."""
        variables = {"mean": self.mean, "var": self.var}
        if self.count is not None:
            variables["count"] = self.count
        if self.record is not None:
            names = record_names(layerwise=self.layerwise)
            if self.pending is not None:
                names = _names_of(_ACCUMULATED)
                variables |= self.pending
            variables |= dict(zip(names, self.record, strict=True))
        return variables

    @property
    def stats(self) -> RunningStats:
        """The running statistics; a count of 0 where none is kept."""
        count = self.count
        if count is None:
            count = jnp.zeros_like(self.var)
        return RunningStats(self.mean, self.var, count)

    def with_stats(self, stats: RunningStats) -> "LayerState":
        """The state after an update; a count is kept where there was one.

        Until all micro-batches have been seen, the new statistics are pending.
        """
        if self.pending is not None:
            new = {_PENDING + name: value for name, value in stats._asdict().items()}
            return self._replace(pending={name: new[name] for name in self.pending})
        count = None if self.count is None else stats.count
        return self._replace(mean=stats.mean, var=stats.var, count=count)


def names_of_state(*, counts: bool, has: Callable[[str], bool]) -> tuple[str, ...]:
    """Returns the names of a layer's variables, those of a record where it has one."""
    names = ("mean", "var", "count") if counts else ("mean", "var")
    for layerwise in _PREFIXES:
        recorded = record_names(layerwise=layerwise)
        if has(recorded[0]):
            return names + recorded
    if has(ACCUMULATES):
        pending = tuple(filter(has, (_PENDING + name for name in names)))
        return names + _names_of(_ACCUMULATED) + pending
    return names


def record_names(*, layerwise: bool) -> tuple[str, ...]:
    """Returns under which names a layer finds a record of a population."""
    return _names_of(_PREFIXES[layerwise])


def _names_of(prefix: str) -> tuple[str, ...]:
    """Returns the names of a record."""
    return tuple(prefix + field for field in Record._fields)


def empty_record(mean: Inexact[Array, "*c"], var: Float[Array, "*c"]) -> Record:
    """Returns a record of nothing for a layer with these running statistics."""
    # Half precision would lose what is added, and the count soon be infinite.
    dtype = compute_dtype(var)
    return Record(
        mean=jnp.zeros_like(mean, vector_dtype(mean)),
        var=jnp.zeros_like(var, dtype),
        count=jnp.zeros_like(var, dtype),
    )


def names_of_accumulation() -> tuple[str, ...]:
    """Returns the names of all that is kept while micro-batches accumulate."""
    pending = tuple(_PENDING + name for name in RunningStats._fields)
    return _names_of(_ACCUMULATED) + pending


def accumulation(stats: Mapping[str, Array]) -> dict[str, Array]:
    """Returns, by name, what a layer with these statistics accumulates in."""
    record = empty_record(stats["mean"], stats["var"])
    # Copies: a program may be given each buffer to write into only once.
    pending = {_PENDING + k: jnp.array(value, copy=True) for k, value in stats.items()}
    return dict(zip(_names_of(_ACCUMULATED), record, strict=True)) | pending


def committed(variables: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the running statistics after the micro-batches that were recorded.

    A layer that recorded nothing, such as Flax's own, keeps what it has.
    """
    counted = variables[_ACCUMULATED + "count"] > 0

    def after(name: str) -> Array:
        before = variables[name]
        new = counted if before.ndim else jnp.any(counted)  # one count for all features
        return jnp.where(new, variables.get(_PENDING + name, before), before)

    return {name: after(name) for name in RunningStats._fields if name in variables}


def add_to_record(record: Record, moments: Moments) -> Record:
    """Merges a batch's moments into the record, exactly: a layer may run twice."""
    check_same_features(record.mean.shape, moments.mean.shape)
    count = jnp.broadcast_to(
        expand_last(moments.count, moments.var.ndim), moments.var.shape
    )
    both = Moments(
        *(
            jnp.stack([old, shard_like(lax.stop_gradient(new).astype(old.dtype), old)])
            for old, new in zip(record, (*moments[:2], count), strict=True)
        )
    )
    return Record(*merge_stacked(both, 0))
