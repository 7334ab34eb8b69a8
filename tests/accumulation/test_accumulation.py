# SPDX-License-Identifier: Apache-2.0
"""Micro-batches: by their own moments, and one update, as of virtual batches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbn.linen
from tests.accumulation.runs import FEATURES, PARTS, SIZE, of_linen, of_nnx, whole

LIBRARIES = pytest.mark.parametrize("accumulated", [of_linen, of_nnx])


@LIBRARIES
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"momentum": 0.5, "unbiased": True},
        {"momentum": None},
        {"debias": True},
        {"kind": "BatchRenorm", "momentum": 0.5},
        {"activation": jax.nn.relu},
    ],
    ids=" ".join,
)
def test_equals_virtual_batches(parts, accumulated, fields):
    ys, history = accumulated(parts, rounds=3, **fields)
    expected_ys, expected = whole(parts, rounds=3, **fields)
    # The sums of a part alone, and of several at once, are in different orders.
    chex.assert_trees_all_close(ys, expected_ys, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(history, expected, rtol=1e-6)


@LIBRARIES
def test_outputs_are_those_without_accumulation(parts, accumulated):
    """Bit for bit: the running statistics alone know of it."""
    ys, _ = accumulated(parts)
    plain = jaxbn.linen.BatchNorm(use_running_average=False)
    variables = plain.init(jax.random.key(0), parts[0])
    for y, x in zip(ys, parts, strict=True):
        alone, _ = plain.apply(variables, x, mutable="batch_stats")
        np.testing.assert_array_equal(y, alone)


@LIBRARIES
@pytest.mark.parametrize("weighted", [False, True])
def test_masks_and_an_empty_part(rng, parts, accumulated, weighted):
    counts = rng.uniform(size=(PARTS, SIZE, 5)) > 0.3
    if weighted:
        counts = np.float32(counts * rng.uniform(size=counts.shape))
    masks = list(jnp.asarray(counts))
    masks[1] = jnp.zeros_like(masks[1])
    ys, history = accumulated(parts, masks=masks)
    expected_ys, expected = whole(parts, masks=masks)
    chex.assert_trees_all_close(ys, expected_ys, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(history, expected, rtol=1e-6)


@LIBRARIES
def test_ragged_parts(rng, accumulated):
    x = rng.normal(3, 2, size=(12, FEATURES)).astype(np.float32)
    ragged = [jnp.asarray(part) for part in np.split(x, [2, 7])]
    _, (stats,) = accumulated(ragged, momentum=0.0)
    np.testing.assert_allclose(stats["mean"], x.mean(0, np.float64), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], x.var(0, np.float64), rtol=1e-5)


@LIBRARIES
def test_nothing_that_counts_changes_nothing(parts, accumulated):
    nothing = jnp.zeros((SIZE, 5), bool)
    _, (stats,) = accumulated(parts, masks=[nothing] * PARTS, debias=True)
    expected = {"mean": np.zeros(3), "var": np.ones(3), "count": np.zeros(3)}
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, stats), expected)


@LIBRARIES
def test_nan_is_stored_nowhere(parts, accumulated):
    """As of virtual batches: the feature keeps its statistics, the others move."""
    spoilt = [parts[0].at[0, 0, 1].set(jnp.nan), *parts[1:]]
    _, (stats,) = accumulated(spoilt)
    _, (clean,) = accumulated(parts)
    assert stats["mean"][1] == 0 and stats["var"][1] == 1
    np.testing.assert_array_equal(stats["mean"][::2], clean["mean"][::2])


@LIBRARIES
def test_a_layer_that_runs_twice(parts, accumulated):
    _, (stats,) = accumulated([parts[0], parts[0]])
    _, (once,) = accumulated(parts[:1])
    chex.assert_trees_all_close(stats, once, rtol=1e-6)
