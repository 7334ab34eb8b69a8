# SPDX-License-Identifier: Apache-2.0
"""Population statistics of NNX models: the model changes at the end, or not at all."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbn.nnx
from jaxbn import population
from tests.population.nets import NnxNet, make_batches

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture
def batches(rng):
    return make_batches(rng)


def test_inference_is_then_that_of_the_population(batches):
    """It gives what one batch of all examples gives in training."""
    model = NnxNet()
    population.estimate_nnx(lambda m, b: m(*b), model, batches, layerwise=True)
    x = np.concatenate([x if mask is None else x[mask] for x, mask in batches])
    y = nnx.view(model, use_running_average=True)(jnp.asarray(x))
    np.testing.assert_allclose(y, model(jnp.asarray(x)), atol=1e-5)


class Interrupting(list):
    """Ends as Ctrl-C does."""

    def __iter__(self):
        yield from super().__iter__()
        raise KeyboardInterrupt


@pytest.mark.parametrize("layerwise", [False, True])
def test_interrupted_the_model_is_as_it_was(batches, layerwise):
    model = NnxNet()
    before = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(model)))
    with pytest.raises(KeyboardInterrupt):
        population.estimate_nnx(
            lambda m, b: m(*b), model, Interrupting(batches), layerwise=layerwise
        )
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(model)), before)


class Stack(nnx.Module):
    """Three norms in one, mapped over by `nnx.scan`."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(axis_size=3)
        def make(rngs):
            return jaxbn.nnx.BatchNorm(4, rngs=rngs)

        self.norms = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, norm):
            return 2 * norm(x)

        return forward(x, self.norms)


def test_under_scan(rng):
    x = rng.normal(3, 2, (4, 16, 4)).astype(np.float32)
    model = Stack(nnx.Rngs(0))
    report = population.estimate_nnx(lambda m, x: m(x), model, list(x), layerwise=True)
    assert report.num_passes == 3
    np.testing.assert_allclose(model.norms.mean[...][0], x.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(model.norms.var[...][0], x.var((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(model.norms.mean[...][1:], 0, atol=1e-6)
    np.testing.assert_allclose(model.norms.var[...][1:], 4, rtol=1e-4)
