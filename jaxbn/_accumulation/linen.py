# SPDX-License-Identifier: Apache-2.0
"""Micro-batches of Linen models: records go in and out with `batch_stats`."""

from collections.abc import Iterable, Mapping
from typing import Any

from jaxbn._checks.accumulation import check_accumulates, check_idle, check_is_mapping
from jaxbn._checks.population import check_layers
from jaxbn._core.types import RunningStats
from jaxbn._flax.records import (
    ACCUMULATES,
    accumulation,
    committed,
    names_of_accumulation,
)
from jaxbn._population.linen import Path, flat, layers_of, nested, text_of


def begin_accumulation(batch_stats: Mapping[str, Any]) -> dict[str, Any]:
    r"""Returns `batch_stats` in which norms accumulate the moments of micro-batches.

    $$N = \sum_k n_k, \quad \mu = \frac1N \sum_k n_k \mu_k, \quad
      v = \frac1N \sum_k n_k \left(v_k + (\mu_k - \mu)^2\right)$$

    Until `commit`, training normalizes each micro-batch by its own moments, merges
    these exactly with those of the micro-batches before, and leaves `mean` and `var`
    alone; `commit` then moves them once, by the merged moments. The result is that of
    `virtual_batch_size` on the whole batch: equal outputs, and equal statistics but for
    the order of the sums. Micro-batches may differ in size, have masks and weights, be
    sharded over devices, or hold nothing that counts.

    This is not batch norm over the whole batch: each micro-batch is still normalized by
    its own moments. That would need all micro-batches to pass a layer before the next,
    and two more sums a layer in the backward pass: all activations in memory, or as
    many forward passes as layers.

    Args:
        batch_stats: those of a model with norms of `jaxbn.linen`. Flax's own norms do
            not accumulate: they update theirs at each micro-batch.

    Returns:
        A tree with more leaves, of the shape of each norm's `mean`. It can be jitted,
        be the carry of `lax.scan` and be saved; it costs five or six vectors a layer.

    Raises:
        TypeError: `batch_stats` is not a mapping.
        ValueError: it has no statistics, or accumulates already.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxbn.linen import BatchNorm, begin_accumulation, commit
        >>> norm = BatchNorm(use_running_average=False, momentum=0.5)
        >>> micro_batches = jnp.array([[[1.0], [3.0]], [[5.0], [7.0]]])
        >>> variables = norm.init(jax.random.key(0), micro_batches[0])
        >>> params, stats = variables["params"], variables["batch_stats"]
        >>> stats = begin_accumulation(stats)
        >>> for x in micro_batches:
        ...     variables = {"params": params, "batch_stats": stats}
        ...     y, updates = norm.apply(variables, x, mutable=["batch_stats"])
        ...     stats = updates["batch_stats"]
        >>> stats["mean"].item()
        0.0
        >>> stats = commit(stats)  # the four values have mean 4 and variance 5
        >>> stats["mean"].item(), stats["var"].item()
        (2.0, 3.0)

    References:
        Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance",
        equation 2.1. Ghost batch norm: Hoffer, Hubara & Soudry 2017,
        https://arxiv.org/abs/1705.08741, algorithm 1.
    """
    leaves, layers, accumulating = _read(batch_stats)
    check_idle([text_of(path) for path in accumulating])
    for path in layers:
        stats = _variables_of(path, leaves, RunningStats._fields)
        leaves |= {(*path, k): v for k, v in accumulation(stats).items()}
    return nested(leaves)


def commit(batch_stats: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `batch_stats` after one update, by all micro-batches so far.

    The update is that of each layer, with its `momentum`, `unbiased` and `debias`, and
    is counted once. Layers in which nothing counted keep their statistics. A layer that
    `freeze` has frozen meanwhile moves by the micro-batches before: `batch_stats` do
    not say that it is. Before the next batch, call `begin_accumulation` again.

    Args:
        batch_stats: as the last micro-batch returned them.

    Returns:
        The tree that `begin_accumulation` was given, with new values.

    Raises:
        TypeError: `batch_stats` is not a mapping.
        ValueError: it does not accumulate.

    Example:
        See `begin_accumulation`.

    References:
        As for `begin_accumulation`.
    """
    leaves, _, accumulating = _read(batch_stats)
    check_accumulates(accumulating, name="batch_stats")
    names = RunningStats._fields + names_of_accumulation()
    for path in accumulating:
        variables = _variables_of(path, leaves, names)
        for name in variables:
            del leaves[*path, name]
        leaves |= {(*path, k): v for k, v in committed(variables).items()}
    return nested(leaves)


def _read(
    batch_stats: Mapping[str, Any],
) -> tuple[dict[Path, Any], tuple[Path, ...], tuple[Path, ...]]:
    """The leaves, the paths of the layers, and of those that accumulate."""
    check_is_mapping(batch_stats, name="batch_stats")
    leaves = flat(batch_stats)
    layers = tuple(layers_of(leaves))
    check_layers(layers, name="batch_stats", to="accumulate in")
    return leaves, layers, tuple(p for p in layers if (*p, ACCUMULATES) in leaves)


def _variables_of(
    path: Path, leaves: Mapping[Path, Any], names: Iterable[str]
) -> dict[str, Any]:
    """The variables of a layer by name, those alone that it has."""
    found = {name: leaves.get((*path, name)) for name in names}
    return {name: value for name, value in found.items() if value is not None}
