# SPDX-License-Identifier: Apache-2.0
"""Micro-batches of NNX models: compiled, frozen, in an estimate of a population."""

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
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


@pytest.mark.parametrize("verb", ["begin_accumulation", "commit"])
def test_norms_that_would_not_wait_are_refused(parts, verb):
    """Each with the fix, whether there are norms of jaxbn or not."""
    rngs = nnx.Rngs(0)
    call, ours = getattr(jaxbn.nnx, verb), jaxbn.nnx.BatchNorm(FEATURES, rngs=rngs)
    flax = nnx.BatchNorm(FEATURES, rngs=rngs)
    bridged = nnx.bridge.ToNNX(nn.BatchNorm(use_running_average=False), rngs=rngs)
    bridged.lazy_init(parts[0])
    for model in (nnx.Sequential(flax), nnx.Sequential(flax, ours)):
        with pytest.raises(ValueError, match=r"replace it first: `jaxbn.nnx.replace"):
            call(model)
    for model in (nnx.Sequential(bridged, ours), nnx.Sequential(ours, bridged)):
        with pytest.raises(ValueError, match="norm that is out of reach, got one in"):
            call(model)
    with pytest.raises(ValueError, match=r"must have a batch norm of .* `jaxbn.nnx`"):
        call(nnx.Linear(3, 3, rngs=rngs))
    assert not hasattr(ours, "accumulated_mean")


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


def test_layers_frozen_meanwhile_keep_theirs(parts):
    model = nnx.Sequential(
        jaxbn.nnx.BatchNorm(FEATURES, debias=True, rngs=nnx.Rngs(0)),
        jaxbn.nnx.BatchNorm(FEATURES, rngs=nnx.Rngs(0)),
    )
    model.layers[0].bias[...] += 3
    before = nnx.to_pure_dict(nnx.state(nnx.clone(model), nnx.BatchStat))["layers"]
    jaxbn.nnx.begin_accumulation(model)
    model(parts[0])
    jaxbn.nnx.freeze(model.layers[0])
    jaxbn.nnx.commit(model)
    jaxbn.nnx.unfreeze(model)
    after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))["layers"]
    chex.assert_trees_all_equal(after[0], before[0])
    assert not jnp.any(after[1]["mean"] == before[1]["mean"])


@pytest.mark.parametrize("follows", [False, True])
def test_a_population_is_estimated_meanwhile(parts, follows):
    """Its statistics stay, and move by the micro-batches that follow, if any do."""
    norm = jaxbn.nnx.BatchNorm(FEATURES, momentum=None, rngs=nnx.Rngs(0))
    norm(parts[1])
    jaxbn.nnx.begin_accumulation(norm)
    norm(parts[0])
    jaxbn.population.estimate_nnx(lambda m, x: m(x), norm, parts, progress=False)
    everything = np.concatenate(parts).reshape(-1, FEATURES)
    expected = everything.mean(0)
    np.testing.assert_allclose(norm.mean[...], expected, rtol=1e-5)
    if follows:
        norm(parts[2])
        expected = (expected + parts[2].mean((0, 1))) / 2
    jaxbn.nnx.commit(norm)
    np.testing.assert_allclose(norm.mean[...], expected, rtol=1e-5)
    assert norm.count[...].tolist() == 3 * [1 + follows]
