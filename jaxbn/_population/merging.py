# SPDX-License-Identifier: Apache-2.0
r"""What one pass over a population gives: records, merged on the host in float64.

$$N = \sum_k n_k, \quad \mu = \frac1N \sum_k n_k \mu_k, \quad
  v = \frac1N \sum_k n_k \left(v_k + (\mu_k - \mu)^2\right)$$

over all batches of all processes.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbn._core.statistics import merge_about
from jaxbn._flax.records import Record

Values = np.ndarray[Any, np.dtype[Any]]


class Total(NamedTuple):
    """A record on the host, in double precision."""

    mean: Values
    var: Values
    count: Values


class Pass(NamedTuple):
    """What one pass over the batches gave."""

    totals: dict[str, Total]
    not_finite: dict[str, bool]
    num_batches: int = 0
    num_examples: float = 0.0  # a float from the start: processes share its bytes


def nothing_yet(stats: Mapping[str, tuple[Values, Values]]) -> Pass:
    """Before the first batch."""
    empty = {
        path: Total(np.zeros_like(mean), np.zeros_like(var), np.zeros_like(var))
        for path, (mean, var) in stats.items()
    }
    return Pass(empty, dict.fromkeys(stats, False))


def add(total: Pass, records: Mapping[str, Record], num_examples: float) -> Pass:
    """Merges the records of one batch into those of the batches before."""
    merged, not_finite = dict(total.totals), dict(total.not_finite)
    for path, record in records.items():
        mean, var, count = map(as_double, record)
        finite = np.isfinite(mean) & np.isfinite(var)
        not_finite[path] = not_finite[path] or not np.all(finite)
        usable = Total(
            np.where(finite, mean, 0), np.where(finite, var, 0), count * finite
        )
        merged[path] = _merge(merged[path], usable)
    counts = total.num_batches + 1, total.num_examples + num_examples
    return Pass(merged, not_finite, *counts)


def _merge(one: Total, other: Total) -> Total:
    """The formula above, for two."""
    count = one.count + other.count
    share = np.stack([one.count, other.count]) / np.where(count > 0, count, 1)
    offset = np.stack([np.zeros_like(one.mean), other.mean - one.mean])
    var = np.stack([one.var, other.var])
    shift, var = merge_about(share, offset, var, 0, xp=np)
    return Total(one.mean + shift, var, count)


def across_processes(total: Pass) -> Pass:
    """Merges what all processes have; where they share arrays, nothing changes."""
    if jax.process_count() == 1:
        return total
    from jax.experimental.multihost_utils import process_allgather

    leaves, structure = jax.tree.flatten(total)
    leaves = [np.asarray(leaf) for leaf in leaves]
    packed = b"".join(leaf.tobytes() for leaf in leaves)
    # As bytes: arrays of JAX are float32 unless asked otherwise.
    rows = process_allgather(np.frombuffer(packed, np.uint8))
    ends = np.cumsum([leaf.nbytes for leaf in leaves])[:-1]
    passes = [
        jax.tree.unflatten(
            structure,
            [
                np.frombuffer(part.tobytes(), leaf.dtype).reshape(leaf.shape)
                for part, leaf in zip(np.split(row, ends), leaves, strict=True)
            ],
        )
        for row in rows
    ]
    return functools.reduce(_merge_passes, passes)


def _merge_passes(one: Pass, other: Pass) -> Pass:
    """Of two processes."""
    paths = one.totals
    return Pass(
        {path: _merge(one.totals[path], other.totals[path]) for path in paths},
        {path: one.not_finite[path] or other.not_finite[path] for path in paths},
        one.num_batches + other.num_batches,
        one.num_examples + other.num_examples,
    )


def as_double(value: Any) -> Values:
    """On the host; complex stays complex."""
    value = np.asarray(value)
    return value.astype(np.complex128 if np.iscomplexobj(value) else np.float64)
