# SPDX-License-Identifier: Apache-2.0
"""Population statistics of Linen models, however they and their batches are cut."""

from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import freeze
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbn.linen
from jaxbn import population
from tests import shards
from tests.layers import Slash

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def one_layer(x, **fields):
    """A single Linen norm, its variables and its `apply`."""
    norm = jaxbn.linen.BatchNorm(use_running_average=False, **fields)
    variables = norm.init(jax.random.key(0), jnp.asarray(x))

    def apply(variables, x):
        return norm.apply(variables, x, mutable=["batch_stats"])

    return variables, apply


@pytest.mark.parametrize("fields", [
    {"virtual_batch_size": 4}, {"debias": True}, {"momentum": None}, {"unbiased": True},
])  # fmt: skip
def test_fields_do_not_matter(rng, fields):
    x = rng.normal(3, 2, (4, 16, 5)).astype(np.float32)
    variables, apply = one_layer(x[0], **fields)
    new, _ = population.estimate_linen(apply, freeze(variables), list(x))
    stats = new["batch_stats"]
    np.testing.assert_allclose(stats["mean"], x.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], x.var((0, 1)), rtol=1e-5)
    assert set(stats) == set(variables["batch_stats"])


@pytest.mark.parametrize("how", ["jit", "shard_map", "pmap"])
def test_over_devices(rng, how):
    """Batches cut over four devices, as in training."""
    x = rng.normal(np.arange(4)[:, None, None], 2, (4, 16, 5)).astype(np.float32)
    sync = {} if how == "jit" else {"axis_name": "i"}
    variables, apply = one_layer(x[0], **sync)
    mesh = shards.mesh()
    batches = [jax.device_put(b, NamedSharding(mesh, P("i"))) for b in x]
    if how == "shard_map":
        apply = jax.shard_map(
            apply, mesh=mesh, in_specs=(P(), P("i")), out_specs=(P("i"), P())
        )
    if how == "pmap":
        apply = jax.pmap(apply, axis_name="i")
        variables = jax.tree.map(lambda a: jnp.stack([a] * 4), variables)
        batches = list(x.reshape(4, 4, 4, 5))
    new, _ = population.estimate_linen(apply, variables, batches)
    stats = new["batch_stats"]
    np.testing.assert_allclose(stats["mean"].reshape(-1, 5)[-1], x.mean((0, 1)), 1e-6)
    np.testing.assert_allclose(stats["var"].reshape(-1, 5)[-1], x.var((0, 1)), 1e-5)


@pytest.mark.parametrize("layerwise", [False, True])
def test_is_compiled_once(rng, layerwise):
    """For all passes, and for the next call with the same function."""
    x = rng.normal(3, 2, (4, 16, 5)).astype(np.float32)
    variables, apply = one_layer(x[0])
    traced = []

    def counted(variables, x):
        traced.append(x.shape)
        return apply(variables, x)

    for _ in range(2):
        variables, _ = population.estimate_linen(
            counted, variables, list(x), layerwise=layerwise
        )
    assert traced == [(16, 5)]


class Block(nn.Module):
    """A step of a stack."""

    @nn.compact
    def __call__(self, x, _):
        x = nn.Dense(4, use_bias=False)(x)
        return jaxbn.linen.BatchNorm(use_running_average=False)(x), None


@pytest.mark.parametrize("layerwise", [False, True])
def test_layers_stacked_by_scan(rng, layerwise):
    """Three in one array, under `remat` as well; each is a layer of the depth."""
    x = rng.normal(np.arange(4)[:, None, None], 2, (4, 16, 4)).astype(np.float32)
    stack = nn.scan(
        nn.remat(Block),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        length=3,
    )()
    variables = stack.init(jax.random.key(0), x[0], None)

    def apply(variables, x):
        return stack.apply(variables, x, None, mutable=["batch_stats"])

    new, report = population.estimate_linen(
        apply, variables, list(x), layerwise=layerwise
    )
    assert report.num_passes == (3 if layerwise else 1)
    stats = new["batch_stats"]["BatchNorm_0"]
    z = np.concatenate(x) if layerwise else x
    for k, kernel in enumerate(variables["params"]["Dense_0"]["kernel"]):
        z = z @ np.asarray(kernel, np.float64)
        every = tuple(range(z.ndim - 1))
        np.testing.assert_allclose(stats["mean"][k], z.mean(every), atol=1e-5)
        np.testing.assert_allclose(stats["var"][k], z.var(every), rtol=2e-5)
        z = (z - z.mean(-2, keepdims=True)) / np.sqrt(z.var(-2, keepdims=True) + 1e-5)


def test_a_layer_that_runs_twice_sees_both(rng):
    x = rng.normal(3, 2, (2, 16, 5)).astype(np.float32)
    norm = jaxbn.linen.BatchNorm(use_running_average=False)
    variables = norm.init(jax.random.key(0), jnp.asarray(x[0]))

    def apply(variables, x):
        def twice(norm, x):
            return norm(x) + norm(2 * x)

        return nn.apply(twice, norm, mutable=["batch_stats"])(variables, x)

    new, _ = population.estimate_linen(apply, variables, list(x))
    seen = np.concatenate([x, 2 * x]).astype(np.float64)
    stats = new["batch_stats"]
    np.testing.assert_allclose(stats["mean"], seen.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], seen.var((0, 1)), rtol=1e-5)


def test_trees_come_back_whole(rng):
    """Empty places too, names with a slash, mappings of another kind."""
    x = rng.normal(3, 2, (2, 16, 5)).astype(np.float32)
    net = Slash()
    variables = net.init(jax.random.key(0), jnp.asarray(x[0]))
    given = MappingProxyType({**variables["batch_stats"], "empty": {}})

    def apply(variables, x):
        return net.apply(variables, x, mutable=["batch_stats"])

    new, report = population.estimate_linen(
        apply, {**variables, "batch_stats": given}, list(x)
    )
    assert report.estimated == ("a/b",)
    assert set(new["batch_stats"]) == {"a/b", "empty"}
    stats = new["batch_stats"]["a/b"]
    np.testing.assert_allclose(stats["mean"], x.mean((0, 1)), rtol=1e-6)
