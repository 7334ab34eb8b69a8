# SPDX-License-Identifier: Apache-2.0
"""The statistics of a population: passes over its batches, until nothing changes.

Nothing here knows Flax: a function that runs a batch through a model is passed in.
"""

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbn._checks.population import (
    check_anything_recorded,
    check_batches,
    check_num_batches,
)
from jaxbn._flax.records import Record
from jaxbn._population.merging import (
    Pass,
    across_processes,
    add,
    as_double,
    nothing_yet,
)

LayerStats = tuple[Any, Any]
"""Running mean and variance of a layer."""
Measure = Callable[[Mapping[str, LayerStats], Any], Mapping[str, Record]]
"""Runs one batch through the model with these statistics; returns the records."""
SETTLED = 1e-6
"""Of the deviation or variance: smaller changes are treated as rounding."""


class PopulationReport(NamedTuple):
    """What was estimated.

    Attributes:
        estimated: the paths of the layers whose statistics are new.
        kept: the paths of the layers that keep theirs: the layer did not run, its
            statistics are frozen, or nothing counted.
        not_finite: the paths of the layers in which moments of some batch were not
            finite; these moments were left out, feature by feature.
        num_batches: how many batches there were, of all processes.
        num_passes: how often the batches went through the model.
        foreign: the paths of the layers that are Flax's own, and keep their statistics.
    """

    estimated: tuple[str, ...]
    kept: tuple[str, ...]
    not_finite: tuple[str, ...]
    num_batches: int
    num_passes: int
    foreign: tuple[str, ...] = ()


class Setting(NamedTuple):
    """How to estimate."""

    layerwise: bool
    prior_count: float  # how many examples the statistics so far weigh
    progress: Callable[[Iterable[Any], str], Iterable[Any]]  # shows how far it is


def estimate(
    measure: Measure,
    layers: Mapping[str, LayerStats],
    num_layers: Callable[[], int],
    batches: Iterable[Any],
    setting: Setting,
) -> tuple[dict[str, LayerStats], PopulationReport]:
    """Returns the new statistics of the layers that have some, and a report.

    `num_layers` says, after the first pass, how many layers there may be in a row.

    Layer after layer: the first layer's records do not depend on other statistics, and
    are right after one pass; with these, the second's are right after two, and so on.
    All are right when a pass changes nothing, or after as many passes as layers.
    """
    check_batches(batches, again=setting.layerwise)
    stats = source = {p: (as_double(m), as_double(v)) for p, (m, v) in layers.items()}
    number, most = 0, None
    while True:
        number += 1
        title = f"pass {number}" if setting.layerwise else "batches"
        title += "" if most is None else f" of at most {most}"
        found = _one_pass(measure, stats, setting.progress(batches, title))
        most = num_layers() if setting.layerwise else 1
        before, stats = stats, _mix(source, found, setting.prior_count)
        if number == most or all(_is_same(stats[p], before[p]) for p in layers):
            return _conclude(stats, found, number)


def _conclude(
    stats: Mapping[str, LayerStats], found: Pass, num_passes: int
) -> tuple[dict[str, LayerStats], PopulationReport]:
    """Returns the statistics that are new, and the report."""
    counted = [path for path, total in found.totals.items() if np.any(total.count)]
    check_anything_recorded(counted, stats)
    report = PopulationReport(
        estimated=tuple(counted),
        kept=tuple(path for path in stats if path not in counted),
        not_finite=tuple(path for path in stats if found.not_finite[path]),
        num_batches=int(found.num_batches),
        num_passes=num_passes,
    )
    return {path: stats[path] for path in counted}, report


def _one_pass(
    measure: Measure, stats: Mapping[str, LayerStats], batches: Iterable[Any]
) -> Pass:
    """Runs all batches, one ahead of the merge, and merges across processes."""
    total = nothing_yet(stats)
    for records, num_examples in _ahead(_measured(measure, stats, batches)):
        total = add(total, records, num_examples)
    total = across_processes(total)
    check_num_batches(total.num_batches)
    return total


def _measured(
    measure: Measure, stats: Mapping[str, LayerStats], batches: Iterable[Any]
) -> Iterator[tuple[Mapping[str, Record], float]]:
    """The records of each batch, on the device, and how many examples it has."""
    first = None
    for number, batch in enumerate(batches):
        shapes = jax.tree.map(np.shape, batch)
        first = shapes if first is None else first
        with _in_batch(number, shapes, first):
            records = measure(stats, batch)
        yield records, _num_examples(batch)


@contextlib.contextmanager
def _in_batch(number: int, shapes: Any, first: Any) -> Generator[None]:
    """Says of any error which batch went through the model, and what the first was."""
    try:
        yield
    except Exception as error:
        note = f"This was batch {number} of shapes {shapes}"
        if number > 0:
            note += f"; batch 0, of shapes {first}, went through the model"
        error.add_note(f"{note}.")
        raise


def _num_examples(batch: Any) -> float:
    """The leading axis; this process's part of an array that processes share."""
    leaves = [leaf for leaf in jax.tree.leaves(batch) if np.ndim(leaf)]
    if not leaves:
        return 0.0
    shared = isinstance(leaves[0], jax.Array) and not leaves[0].is_fully_addressable
    return len(leaves[0]) / (jax.process_count() if shared else 1)


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yields one item late: the device computes the next while the host has this."""
    waiting: list[Any] = []
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting


def as_before(value: np.ndarray, before: Any) -> jax.Array:
    """The value with the dtype, and on the devices if several, of what was there."""
    value = value.astype(before.dtype)
    several = isinstance(before, jax.Array) and len(before.sharding.device_set) > 1
    return jax.device_put(value, before.sharding) if several else jnp.asarray(value)


def _mix(
    source: Mapping[str, LayerStats], found: Pass, prior_count: float
) -> dict[str, LayerStats]:
    """The weighted mean of source and population; the source where nothing counts."""
    prior = prior_count / (prior_count + found.num_examples) if prior_count else 0

    def mix(path: str) -> LayerStats:
        total = found.totals[path]
        weight = np.where(total.count > 0, prior, 1)
        (mean, var), share = source[path], 1 - weight
        return weight * mean + share * total.mean, weight * var + share * total.var

    return {path: mix(path) for path in source}


def _is_same(one: LayerStats, other: LayerStats) -> bool:
    """Whether nothing changed but rounding, relative to deviation and variance."""
    var = np.maximum(one[1], other[1])
    rounding = np.finfo(np.float32).eps * np.abs(one[0])
    changed_mean = np.abs(one[0] - other[0]) > SETTLED * np.sqrt(var) + rounding
    changed_var = np.abs(one[1] - other[1]) > SETTLED * var
    return not (np.any(changed_mean) or np.any(changed_var))


def num_stacked(mean: Any, features: tuple[int, ...] | None) -> int:
    """How many layers share these statistics: `scan` and `vmap` stack several.

    Where it is not known what the features of one are, the last axis is taken for them.
    """
    shape = np.shape(mean)
    features = shape[-1:] if features is None else features
    return math.prod(shape) // max(math.prod(features), 1)
