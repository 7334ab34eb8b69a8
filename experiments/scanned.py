# SPDX-License-Identifier: Apache-2.0
"""Whole training runs as one compiled scan, for one seed after the other.

The steps are those of `training.py`; what is left out is everything that watches them.
"""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import ExperimentConfig
from experiments.data import Batch, load_dataset, rows_of_step
from experiments.models import make_model
from experiments.optimizers import make_optimizer
from experiments.steps import Task, TrainState, init_state, train_step


def train_scanned(config: ExperimentConfig, seeds: Iterable[int]) -> list[TrainState]:
    """Returns the last state for each seed; `config.seed` is not used."""
    dataset = load_dataset(config.data)
    train = Batch(jnp.asarray(dataset.train.image), jnp.asarray(dataset.train.label))
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)
    task = Task(make_model(config, dataset.num_classes), optimizer)
    num, size = len(dataset.train), config.data.batch_size
    states = []
    for seed in seeds:
        steps = range(config.train.num_steps)
        chosen = np.stack([rows_of_step(num, size, seed, step) for step in steps])
        state = init_state(task, train.image[:2], seed)
        states.append(_scan(task, state, train, chosen))
    return states


@functools.partial(jax.jit, static_argnums=0)
def _scan(task: Task, state: TrainState, train: Batch, chosen: jax.Array) -> TrainState:
    """Runs a step for each row of indices."""

    def step(state, rows):
        counts = rows >= 0
        batch = Batch(train.image[rows], train.label[rows], counts)
        return train_step(task, state, batch)[0], None

    return jax.lax.scan(step, state, chosen)[0]
