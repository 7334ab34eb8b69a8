# SPDX-License-Identifier: Apache-2.0
"""Micro-batches through a layer of either framework, and through virtual batches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxbn
import jaxbn.linen
import jaxbn.nnx

PARTS, SIZE, FEATURES = 4, 6, 3


def of_linen(parts, kind="BatchNorm", masks=None, rounds=1, **fields):
    """The outputs for the parts, and the statistics after each commit."""
    norm = getattr(jaxbn.linen, kind)(use_running_average=False, **fields)
    variables = norm.init(jax.random.key(0), parts[0])
    stats, ys, history = variables["batch_stats"], [], []
    for _ in range(rounds):
        before = jax.tree.map(np.asarray, stats)
        stats = jaxbn.linen.begin_accumulation(stats)
        for x, mask in zip(parts, masks or [None] * len(parts), strict=True):
            y, updates = norm.apply(
                {**variables, "batch_stats": stats}, x, mask=mask, mutable="batch_stats"
            )
            stats = updates["batch_stats"]
            chex.assert_trees_all_equal({k: stats[k] for k in before}, before)
            ys.append(y)
        stats = jaxbn.linen.commit(stats)
        history.append(stats)
    return ys, history


def of_nnx(parts, kind="BatchNorm", masks=None, rounds=1, **fields):
    """The same of the NNX module."""
    norm = getattr(jaxbn.nnx, kind)(FEATURES, rngs=nnx.Rngs(0), **fields)
    names = [name for name in ("mean", "var", "count") if hasattr(norm, name)]
    graph = nnx.graphdef(norm)
    ys, history = [], []
    for _ in range(rounds):
        before = {name: np.asarray(getattr(norm, name)[...]) for name in names}
        jaxbn.nnx.begin_accumulation(norm)
        for x, mask in zip(parts, masks or [None] * len(parts), strict=True):
            ys.append(norm(x, mask=mask))
            now = {name: np.asarray(getattr(norm, name)[...]) for name in names}
            chex.assert_trees_all_equal(now, before)
        jaxbn.nnx.commit(norm)
        history.append({name: getattr(norm, name)[...] for name in names})
    assert nnx.graphdef(norm) == graph
    return ys, history


def whole(parts, kind="BatchNorm", masks=None, rounds=1, **fields):
    """Of the parts as the virtual batches of one batch."""
    fields["virtual_batch_size"] = len(parts[0])
    norm = getattr(jaxbn.linen, kind)(use_running_average=False, **fields)
    x = jnp.concatenate(parts)
    mask = None if masks is None else jnp.concatenate(masks)
    variables = norm.init(jax.random.key(0), x)
    ys, history = [], []
    for _ in range(rounds):
        y, updates = norm.apply(variables, x, mask=mask, mutable="batch_stats")
        variables = {**variables, **updates}
        ys += jnp.split(y, len(parts))
        history.append(updates["batch_stats"])
    return ys, history
