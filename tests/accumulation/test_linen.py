# SPDX-License-Identifier: Apache-2.0
"""Micro-batches of Linen models: under transforms, and next to Flax's norms."""

from collections.abc import Mapping
from types import MappingProxyType

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

import jaxbn.linen
import jaxbn.population
from tests import shards
from tests.accumulation.runs import PARTS, of_linen
from tests.layers import Slash


def test_scan_and_jit(parts):
    """A training step with its micro-batches inside, twice; one compilation."""
    norm = jaxbn.linen.BatchNorm(use_running_average=False, momentum=0.5)
    variables = norm.init(jax.random.key(0), parts[0])

    @jax.jit
    @chex.assert_max_traces(1)
    def step(stats):
        def micro(stats, x):
            arguments = {**variables, "batch_stats": stats}
            return norm.apply(arguments, x, mutable="batch_stats")[1]["batch_stats"], 0

        stats = jaxbn.linen.begin_accumulation(stats)
        stats, _ = jax.lax.scan(micro, stats, jnp.stack(parts))
        return jaxbn.linen.commit(stats)

    stats = step(step(variables["batch_stats"]))
    _, expected = of_linen(parts, momentum=0.5, rounds=2)
    chex.assert_trees_all_close(stats, expected[-1], rtol=1e-6)


def test_scanned_layers(parts):
    """The statistics of several layers are stacked; so are their records."""

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            x = jaxbn.linen.BatchNorm(use_running_average=False)(nn.Dense(3)(x))
            return x, None

    scanned = nn.scan(
        Layer,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        length=2,
    )()
    variables = scanned.init(jax.random.key(0), parts[0], None)
    stats = jaxbn.linen.begin_accumulation(variables["batch_stats"])
    assert stats["BatchNorm_0"]["accumulated_count"].shape == (2, 3)
    for x in (parts[0], parts[0]):
        arguments = {**variables, "batch_stats": stats}
        stats = scanned.apply(arguments, x, None, mutable="batch_stats")[1][
            "batch_stats"
        ]
    _, expected = scanned.apply(variables, parts[0], None, mutable="batch_stats")
    expected = expected["batch_stats"]
    chex.assert_trees_all_close(jaxbn.linen.commit(stats), expected, rtol=1e-6)


@pytest.mark.parametrize("mode", shards.MODES)
def test_over_devices(parts, mode):
    """Each micro-batch is cut over devices, which share its moments."""
    norm = jaxbn.linen.BatchNorm(use_running_average=False, axis_name="i")
    alone = jaxbn.linen.BatchNorm(use_running_average=False)
    variables = alone.init(jax.random.key(0), parts[0])

    def step(shard, variables):
        stats = jaxbn.linen.begin_accumulation(variables["batch_stats"])
        for x in shard:
            arguments = {**variables, "batch_stats": stats}
            stats = norm.apply(arguments, x, mutable="batch_stats")[1]["batch_stats"]
        return jaxbn.linen.commit(stats)

    cut = jnp.stack(parts).reshape(PARTS, 2, 3, 5, 3).transpose(1, 0, 2, 3, 4)
    stats = jax.jit(shards.mapped(mode, step, num=2))(cut, variables)
    _, (expected,) = of_linen(parts)
    for device in range(2):
        mine = jax.tree.map(lambda a, d=device: np.asarray(a)[d], stats)
        chex.assert_trees_all_close(mine, expected, rtol=1e-6)


def test_norms_of_flax_update_as_always(parts):
    """In Linen, where statistics do not say whose they are."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False, name="theirs")(x)
            return jaxbn.linen.BatchNorm(use_running_average=False, name="ours")(x)

    variables = Net().init(jax.random.key(0), parts[0])

    def after(stats, x):
        arguments = {**variables, "batch_stats": stats}
        return Net().apply(arguments, x, mutable="batch_stats")[1]["batch_stats"]

    stats = jaxbn.linen.begin_accumulation(variables["batch_stats"])
    stats = jaxbn.linen.commit(after(after(stats, parts[0]), parts[1]))
    alone = after(after(variables["batch_stats"], parts[0]), parts[1])
    chex.assert_trees_all_equal(stats["theirs"], alone["theirs"])
    assert jnp.any(stats["ours"]["var"] != alone["ours"]["var"])


@pytest.mark.parametrize("around", [
    MappingProxyType,
    FrozenDict,
    lambda stats: {"norm": MappingProxyType(stats)},
    lambda stats: {"empty": {}, "norm": stats, "deep": {"mean": {}, "var": {}},
                   "scalar": {"mean": jnp.zeros(()), "var": {}}},
    lambda stats: {"a/b": stats, "a": {"b": stats, "other": jnp.ones(2)}},
], ids=["proxy", "frozen", "proxy inside", "empty", "slash"])  # fmt: skip
def test_trees_come_back_whole(around):
    """Whatever kind of mapping they are, whatever the names, empty places too."""
    stats = around({"mean": jnp.zeros(3), "var": jnp.ones(3)})
    begun = jaxbn.linen.begin_accumulation(stats)
    chex.assert_trees_all_equal(jaxbn.linen.commit(begun), as_dicts(stats))


def as_dicts(tree):
    if not isinstance(tree, Mapping):
        return tree
    return {name: as_dicts(value) for name, value in tree.items()}


def test_a_name_with_a_slash(parts):
    """The model must find its statistics again."""
    model = Slash()
    variables = model.init(jax.random.key(0), parts[0])
    stats = jaxbn.linen.begin_accumulation(variables["batch_stats"])
    for x in parts:
        arguments = {**variables, "batch_stats": stats}
        stats = model.apply(arguments, x, mutable="batch_stats")[1]["batch_stats"]
    _, (expected,) = of_linen(parts)
    chex.assert_trees_all_equal(jaxbn.linen.commit(stats), {"a/b": expected})


def test_inference_by_norms_of_flax_meanwhile(parts):
    """An exporter may restore them; training so would lose what was accumulated."""
    norm = jaxbn.linen.BatchNorm()
    variables = norm.init(jax.random.key(0), parts[0], use_running_average=False)
    stats = jaxbn.linen.begin_accumulation(variables["batch_stats"])
    apply = jaxbn.linen.restore(norm.apply)
    y = apply({**variables, "batch_stats": stats}, parts[0], use_running_average=True)
    expected = norm.apply(variables, parts[0], use_running_average=True)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_a_population_is_estimated_meanwhile(parts):
    """Its statistics stay, and move by the micro-batches that follow."""
    model = Slash()
    variables = model.init(jax.random.key(0), parts[0])

    def apply(variables, x):
        return model.apply(variables, x, mutable=["batch_stats"])

    def after(stats, x):
        return apply({**variables, "batch_stats": stats}, x)[1]["batch_stats"]

    def estimated(stats):
        given = {**variables, "batch_stats": stats}
        new, _ = jaxbn.population.estimate_linen(apply, given, parts, progress=False)
        return new["batch_stats"]

    expected = estimated(variables["batch_stats"])
    stats = jaxbn.linen.begin_accumulation(variables["batch_stats"])
    stats = estimated(after(stats, parts[0]))
    chex.assert_trees_all_equal(jaxbn.linen.commit(stats), expected)
    stats = jaxbn.linen.commit(after(stats, parts[1]))
    chex.assert_trees_all_close(stats, after(expected, parts[1]), rtol=1e-6)


def test_statistics_without_a_count(parts):
    """Those of a layer that did not count are settled, as without micro-batches."""
    norm = jaxbn.linen.BatchNorm(use_running_average=False, debias=True)
    variables = norm.init(jax.random.key(0), parts[0])
    loaded = {"mean": jnp.full(3, 5.0), "var": jnp.full(3, 2.0), "count": jnp.zeros(3)}

    def after(stats, x):
        arguments = {**variables, "batch_stats": stats}
        return norm.apply(arguments, x, mutable="batch_stats")[1]["batch_stats"]

    stats = jaxbn.linen.begin_accumulation(loaded)
    stats = jaxbn.linen.commit(after(stats, parts[0]))
    chex.assert_trees_all_close(stats, after(loaded, parts[0]), rtol=1e-6)
