# SPDX-License-Identifier: Apache-2.0
"""A scan of the whole run gives what the loop gives."""

import jax
import numpy as np
import pytest

from experiments.config import DataConfig, ExperimentConfig, TrainConfig
from experiments.data import batches, load_dataset
from experiments.models import make_model
from experiments.scanned import train_scanned
from experiments.training import init_state, make_optimizer, train_step


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Flax relies on implicit promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_is_the_loop():
    config = ExperimentConfig(
        name="a", data=DataConfig(batch_size=32), train=TrainConfig(num_steps=50)
    )
    scanned = train_scanned(config, [0, 3])
    dataset = load_dataset("digits")
    model = make_model(config.model, config.norm, 10)
    optimizer = make_optimizer(config.optimizer)
    for seed, got in zip((0, 3), scanned, strict=True):
        stream = batches(dataset.train, 32, seed)
        state = init_state(model, optimizer, dataset.train.image[:32], seed)
        for _ in range(50):
            state, _ = train_step(model, optimizer, state, next(stream))
        for one, other in zip(
            jax.tree.leaves(got), jax.tree.leaves(state), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
