# SPDX-License-Identifier: Apache-2.0
"""Micro-batches of NNX models: compiled, frozen, in an estimate of a population."""

import numpy as np
from flax import nnx

import jaxbn.nnx
import jaxbn.population
from tests.accumulation.runs import FEATURES, of_nnx


def test_nnx_jit(parts):
    """A compiled step, with everything inside, changes the model alike."""
    norm = jaxbn.nnx.BatchNorm(FEATURES, momentum=0.5, rngs=nnx.Rngs(0))

    @nnx.jit
    def step(norm, parts):
        jaxbn.nnx.begin_accumulation(norm)
        for x in parts:
            norm(x)
        jaxbn.nnx.commit(norm)

    for _ in range(2):
        step(norm, parts)
    _, expected = of_nnx(parts, momentum=0.5, rounds=2)
    np.testing.assert_allclose(norm.mean[...], expected[-1]["mean"], rtol=1e-6)
    np.testing.assert_allclose(norm.var[...], expected[-1]["var"], rtol=1e-6)


def test_frozen_layers_keep_theirs(parts):
    model = nnx.Sequential(
        jaxbn.nnx.BatchNorm(FEATURES, rngs=nnx.Rngs(0)),
        jaxbn.nnx.BatchNorm(FEATURES, rngs=nnx.Rngs(0)),
    )
    jaxbn.nnx.freeze(model.layers[0])
    jaxbn.nnx.begin_accumulation(model)
    model(parts[0])
    jaxbn.nnx.commit(model)
    assert model.layers[0].mean[...].tolist() == [0, 0, 0]
    assert model.layers[1].mean[...].tolist() != [0, 0, 0]


def test_a_population_is_estimated_meanwhile(parts):
    """Its records come first, and the micro-batches stay as they are."""
    norm = jaxbn.nnx.BatchNorm(FEATURES, rngs=nnx.Rngs(0))
    jaxbn.nnx.begin_accumulation(norm)
    norm(parts[0])
    kept = norm.accumulated_mean[...]
    jaxbn.population.estimate_nnx(lambda m, x: m(x), norm, parts, progress=False)
    np.testing.assert_array_equal(norm.accumulated_mean[...], kept)
    everything = np.concatenate(parts).reshape(-1, FEATURES)
    np.testing.assert_allclose(norm.mean[...], everything.mean(0), rtol=1e-5)
