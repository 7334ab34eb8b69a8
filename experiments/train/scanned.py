# SPDX-License-Identifier: Apache-2.0
"""Whole training runs as one compiled scan, for many seeds at once.

The steps are those of `loop.py`, without its metrics, checkpoints and signals. Learning
rate and initial scale are arguments of the compiled program, so that variants that
differ only in these share it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.config import ExperimentConfig, changed
from experiments.data import Batch, load_dataset, rows_of_step
from experiments.models import make_model
from experiments.train.optimizers import make_optimizer
from experiments.train.steps import Task, TrainState, init_state, train_step

ARGUMENTS = {"optimizer.learning_rate": 1.0, "model.init_scale": 1.0}
"""The fields that are arguments, and their values in the program's own config."""


class Examples(NamedTuple):
    """The training and the test examples."""

    train: Batch
    test: Batch


class Probe(NamedTuple):
    """What the compiled program measures of a run."""

    watch: Callable[[Task, TrainState, TrainState, Examples], Any]
    """Takes the states before and after a block of steps; returns arrays."""
    finish: Callable[[Task, TrainState, Any, Examples], Any]
    """Takes the last state and what was watched, stacked; returns arrays."""


def program_config(config: ExperimentConfig) -> ExperimentConfig:
    """Returns the config without the arguments; equal ones share a program."""
    return dataclasses.replace(changed(config, ARGUMENTS), name="program", seed=0)


# Many variants of a study ask for the same examples.
loaded = functools.cache(load_dataset)


def in_memory(config: ExperimentConfig) -> Examples:
    """Loads the examples of a data set that fits into memory."""
    dataset = loaded(config.data)
    return Examples(*(Batch(s.image, s.label) for s in (dataset.train, dataset.test)))


@functools.cache  # one task for each config, so that it is compiled once
def make_task(config: ExperimentConfig) -> Task:
    """Returns the task, with the learning rate in its optimizer's state."""
    rated = optax.inject_hyperparams(optax.scale)(step_size=1.0)
    optimizer = make_optimizer(config.optimizer, config.train.total_steps)
    model = make_model(config, int(loaded(config.data).num_classes))
    return Task(model, optax.chain(optimizer, rated), config.train.label_smoothing)


def rows_of_run(config: ExperimentConfig, num_examples: int, seed: int) -> np.ndarray:
    """Returns the rows of all batches, (blocks of `eval_every`, steps, rows)."""
    data, loop = config.data, config.train
    rows = [
        rows_of_step(num_examples, data.batch_size, seed, step, data.num_empty)
        for step in range(loop.total_steps)
    ]
    every = math.gcd(loop.eval_every, loop.total_steps)
    return np.stack(rows).astype(np.int32).reshape(-1, every, data.batch_size)


class Lanes(NamedTuple):
    """The arguments of runs that are computed together, one row a run."""

    seed: np.ndarray
    rows: np.ndarray
    learning_rate: np.ndarray
    init_scale: np.ndarray


def lanes_of(config: ExperimentConfig, num: int, seeds: Sequence[int]) -> Lanes:
    """Returns one run for each seed, on `num` training examples."""
    same = functools.partial(np.full, len(seeds), dtype=np.float32)
    return Lanes(
        np.asarray(seeds, np.uint32),
        np.stack([rows_of_run(config, num, seed) for seed in seeds]),
        same(config.optimizer.learning_rate),
        same(config.model.init_scale),
    )


def _one_run(
    task: Task, probe: Probe, masked: bool, lane: Lanes, examples: Examples
) -> Any:
    """Trains, and returns what the probe measures."""
    state = init_state(task, examples.train.image[:2], lane.seed, lane.init_scale)
    rate = jnp.asarray(lane.learning_rate, jnp.float32)
    rated = optax.tree_utils.tree_set(state.opt_state, step_size=rate)
    state = state._replace(opt_state=rated)
    image, label, _ = examples.train

    def step(state, rows):
        mask = rows >= 0 if masked else None
        return train_step(task, state, Batch(image[rows], label[rows], mask))[0], None

    def block(before, rows):
        after, _ = jax.lax.scan(step, before, rows)
        return after, probe.watch(task, before, after, examples)

    state, watched = jax.lax.scan(block, state, lane.rows)
    return probe.finish(task, state, watched, examples)


def compile_runs(
    config: ExperimentConfig, examples: Examples, lanes: Lanes, probe: Probe
) -> Callable[[Lanes, Examples], Any]:
    """Returns the compiled program of these runs, for all configs that share it."""
    task = make_task(program_config(config))
    masked = bool((lanes.rows < 0).any())
    runs = jax.vmap(functools.partial(_one_run, task, probe, masked), (0, None))
    return jax.jit(runs).lower(lanes, examples).compile()


LAST_STATE = Probe(lambda *_: (), lambda _, state, *__: state)


def train_scanned(config: ExperimentConfig, seeds: Iterable[int]) -> list[TrainState]:
    """Returns the last state for each seed; `config.seed` is not used."""
    seeds = list(seeds)
    examples = in_memory(config)
    lanes = lanes_of(config, len(examples.train.label), seeds)
    states = compile_runs(config, examples, lanes, LAST_STATE)(lanes, examples)
    return [jax.tree.map(lambda a, k=k: a[k], states) for k in range(len(seeds))]
