# SPDX-License-Identifier: Apache-2.0
"""Schedules, weight decay on kernels only, accumulated gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import OptimizerConfig
from experiments.train.optimizers import make_optimizer, make_schedule


def test_warm_up_and_cosine():
    config = OptimizerConfig(schedule="cosine", warmup_steps=10, learning_rate=0.4)
    schedule = make_schedule(config, 110)
    rates = [float(schedule(k)) for k in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(rates, [0, 0.2, 0.4, 0.2, 0], atol=1e-6)


def test_warm_up_alone_and_none():
    schedule = make_schedule(OptimizerConfig(warmup_steps=4), 100)
    rates = [float(schedule(k)) for k in (0, 2, 4, 99)]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.1], rtol=1e-6)
    assert make_schedule(OptimizerConfig(), 100) == 0.1


def update(config, gradient, steps=1):
    params = {"kernel": jnp.full((2, 2), 3.0), "scale": jnp.full(2, 3.0)}
    optimizer = make_optimizer(config, 100)
    state = optimizer.init(params)
    seen = []
    for _ in range(steps):
        updates, state = optimizer.update(gradient, state, params)
        seen.append(updates)
    return seen


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw", "lars"])
def test_weight_decay_is_for_kernels_only(name):
    zero = {"kernel": jnp.zeros((2, 2)), "scale": jnp.zeros(2)}
    config = OptimizerConfig(name=name, weight_decay=0.01)
    (updates,) = update(config, zero)
    assert np.all(updates["kernel"] < 0) and not np.any(updates["scale"])


def test_accumulates():
    one = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
    config = OptimizerConfig(accumulate_steps=3)
    seen = update(config, one, steps=6)
    moved = [bool(np.any(jax.tree.leaves(u)[0])) for u in seen]
    assert moved == [False, False, True] * 2
    np.testing.assert_allclose(seen[2]["scale"], -0.1, rtol=1e-6)  # the mean
