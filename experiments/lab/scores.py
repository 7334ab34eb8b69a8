# SPDX-License-Identifier: Apache-2.0
"""Probes of a run: its accuracy at the end, and the steps it took to get there."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.config import ExperimentConfig, changed
from experiments.data import Batch
from experiments.train.scanned import Examples, Probe, make_task
from experiments.train.steps import (
    Task,
    TrainState,
    eval_step,
    init_state,
    training_forward,
    variables_of,
)

TARGETS = (50, 71, 75, 80, 90, 95)
"""Accuracies on held-out examples, in %, to which the steps are counted; 71 and 75 are
for Fashion-MNIST (`experiments.config.lab`)."""
Measures = dict[str, jax.Array]


def scores(config: ExperimentConfig) -> Probe:
    """Returns the probe of accuracy and loss at the end, and steps to the targets."""
    return Probe(_test_accuracy, _scores)


def inference(config: ExperimentConfig) -> Probe:
    """Returns `scores`, with batch and population statistics in inference too."""
    exact = make_task(
        changed(
            config,
            {
                "norm.momentum": 0.0,
                "norm.debias": False,
                "norm.unbiased": False,
                "norm.virtual_batch_size": None,
            },
        )
    )

    def finish(task: Task, state: TrainState, watched: Any, examples: Examples):
        test = examples.test
        logits, _ = training_forward(
            task.model, variables_of(state), test, jax.random.key(0)
        )
        population = with_statistics_of(exact, state, examples.train)
        return _scores(task, state, watched, examples) | {
            "batch_accuracy": jnp.mean(logits.argmax(-1) == test.label),
            "population_accuracy": eval_step(exact, population, test).accuracy,
        }

    return Probe(_test_accuracy, finish)


def with_statistics_of(exact: Task, state: TrainState, train: Batch) -> TrainState:
    """Returns the state with the statistics of all training examples.

    One forward pass over all examples at once, with momentum 0: each layer sees what
    the layers below it return when normalized by the same examples.
    """
    empty = init_state(exact, train.image[:2], 0)
    variables = variables_of(empty) | {"params": state.params}
    _, updates = training_forward(exact.model, variables, train, jax.random.key(0))
    return state._replace(batch_stats=updates.get("batch_stats", {}))


def _test_accuracy(
    task: Task, before: TrainState, after: TrainState, examples: Examples
) -> jax.Array:
    return eval_step(task, after, examples.test).accuracy


def _scores(
    task: Task, state: TrainState, accuracies: jax.Array, examples: Examples
) -> Measures:
    test, train = (eval_step(task, state, part) for part in reversed(examples))
    every = state.step // len(accuracies)
    measures = {
        "test_accuracy": test.accuracy,
        "train_accuracy": train.accuracy,
        "gap": train.accuracy - test.accuracy,
        "test_loss": test.loss,
        "train_loss": train.loss,
        # Worse than guessing, or NaN.
        "diverged": ~(train.loss <= jnp.log(float(task.model.num_classes))),
    }
    for target in TARGETS:
        # In float32 an accuracy may be rounded to below the target that it equals.
        there = accuracies >= target / 100 - 1e-6
        first = (jnp.argmax(there) + 1) * every
        measures[f"steps_to_{target}"] = jnp.where(there.any(), first, state.step)
    return measures
