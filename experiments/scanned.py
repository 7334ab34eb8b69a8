# SPDX-License-Identifier: Apache-2.0
"""Whole training runs as one compiled scan, for one seed after the other.

The steps are those of `training.py`; what is left out is everything that watches them.
"""

import functools
import itertools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.config import ExperimentConfig
from experiments.data import Batch, load_dataset, order
from experiments.models import make_model
from experiments.training import TrainState, init_state, make_optimizer, train_step


def train_scanned(config: ExperimentConfig, seeds: Iterable[int]) -> list[TrainState]:
    """Returns the last state for each seed; `config.seed` is not used."""
    dataset = load_dataset(config.data.name)
    train = jax.tree.map(jnp.asarray, dataset.train)
    model = make_model(config.model, config.norm, dataset.num_classes)
    optimizer = make_optimizer(config.optimizer)
    states = []
    for seed in seeds:
        stream = order(len(train.label), config.data.batch_size, seed)
        chosen = np.stack(list(itertools.islice(stream, config.train.num_steps)))
        image = train.image[: config.data.batch_size]
        state = init_state(model, optimizer, image, seed)
        states.append(_scan(model, optimizer, state, train, chosen))
    return states


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scan(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    train: Batch,
    chosen: jax.Array,
) -> TrainState:
    """Runs a step for each row of indices."""

    def step(state, rows):
        batch = Batch(train.image[rows], train.label[rows])
        return train_step(model, optimizer, state, batch)[0], None

    return jax.lax.scan(step, state, chosen)[0]
