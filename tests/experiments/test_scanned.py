# SPDX-License-Identifier: Apache-2.0
"""A scan of the whole run gives what the loop gives."""

import functools

import jax
import numpy as np

from experiments.config import DataConfig, ExperimentConfig, TrainConfig
from experiments.data import load_dataset, train_batches
from experiments.models import make_model
from experiments.train.optimizers import make_optimizer
from experiments.train.scanned import train_scanned
from experiments.train.steps import Task, init_state, train_step


def test_is_the_loop():
    config = ExperimentConfig(
        name="a", data=DataConfig(batch_size=32), train=TrainConfig(num_steps=50)
    )
    scanned = train_scanned(config, [0, 3])
    dataset = load_dataset(config.data)
    task = Task(make_model(config, 10), make_optimizer(config.optimizer, 50))
    step = jax.jit(functools.partial(train_step, task))
    for seed, got in zip((0, 3), scanned, strict=True):
        stream = train_batches(dataset.train, config.data, seed)
        state = init_state(task, dataset.train.image[:2], seed)
        for _ in range(50):
            state, _ = step(state, next(stream))
        for one, other in zip(
            jax.tree.leaves(got[1:3]), jax.tree.leaves(state[1:3]), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
