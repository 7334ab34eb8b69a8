# SPDX-License-Identifier: Apache-2.0
"""Populations whose batches are cut over a mesh of JAX's default kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbn.linen
import jaxbn.nnx
from jaxbn.population import estimate_linen, estimate_nnx

SPECS = {"examples": P("data"), "both": P("data", "model")}


@pytest.fixture
def batches(rng):
    return rng.normal(3, 2, (3, 16, 8)).astype(np.float32)


@pytest.fixture(params=SPECS)
def cut(request, batches):
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    sharding = NamedSharding(mesh, SPECS[request.param])
    return [jax.device_put(batch, sharding) for batch in batches]


def check(mean, var, batches):
    x = batches.reshape(-1, 8).astype(np.float64)
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, x.var(0), rtol=1e-5)


@pytest.mark.parametrize("layerwise", [False, True])
def test_linen(batches, cut, layerwise):
    norm = jaxbn.linen.BatchNorm(use_running_average=False)
    variables = norm.init(jax.random.key(0), jnp.asarray(batches[0]))

    def apply(variables, x):
        return norm.apply(variables, x, mutable=["batch_stats"])

    options = {"layerwise": layerwise, "progress": False}
    stats = estimate_linen(apply, variables, cut, **options)[0]["batch_stats"]
    check(stats["mean"], stats["var"], batches)


@pytest.mark.parametrize("layerwise", [False, True])
def test_nnx(batches, cut, layerwise):
    norm = jaxbn.nnx.BatchNorm(8, rngs=nnx.Rngs(0))
    options = {"layerwise": layerwise, "progress": False}
    estimate_nnx(lambda norm, x: norm(x), norm, cut, **options)
    check(norm.mean[...], norm.var[...], batches)
