# SPDX-License-Identifier: Apache-2.0
"""A probe of a run: how far the inputs of its layers shift, how smooth its loss is.

The shift is that of Ioffe & Szegedy 2015 (https://arxiv.org/abs/1502.03167, section 4.1
and figure 1), the smoothness that of Santurkar et al. 2018
(https://arxiv.org/abs/1805.11604, section 3.1 and figure 4).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.config import ExperimentConfig
from experiments.data import Batch
from experiments.lab import scores
from experiments.train.scanned import Examples, Probe
from experiments.train.steps import Task, TrainState, training_forward, variables_of

NUM_WATCHED = 256
"""The training examples whose distributions are compared."""
PERCENTILES = (15, 50, 85)
FRACTIONS = (0.5, 1.0, 2.0, 4.0)
"""How far along the gradient the loss is evaluated, in learning rates."""


def shift(config: ExperimentConfig) -> Probe:
    """Shift of the layers' inputs, change of gradient and loss along a step."""
    by_scores = scores.scores(config)

    def watch(task: Task, before: TrainState, after: TrainState, examples: Examples):
        batch = Batch(*(a[:NUM_WATCHED] for a in examples.train[:2]))
        old, new = (layer_inputs(task, state, batch) for state in (before, after))
        return {
            "accuracy": by_scores.watch(task, before, after, examples),
            "shift": jnp.mean(jnp.stack(list(map(wasserstein, old, new)))),
            "percentiles": jnp.percentile(new[-1][:, 0], jnp.array(PERCENTILES)),
            **smoothness(task, after, batch),
        }

    def finish(task: Task, state: TrainState, watched: Any, examples: Examples):
        measures = by_scores.finish(task, state, watched.pop("accuracy"), examples)
        percentiles = watched.pop("percentiles")
        every = state.step // len(percentiles)
        for number, name in enumerate(PERCENTILES):
            for block, value in enumerate(percentiles[:, number]):
                measures[f"p{name}_after_{block + 1}"] = value
        means = {name: jnp.mean(values) for name, values in watched.items()}
        return measures | means | {"steps_between": every}

    return Probe(watch, finish)


def layer_inputs(task: Task, state: TrainState, batch: Batch) -> list[jax.Array]:
    """Returns what enters each layer's activation in training, (examples, units)."""
    _, found = training_forward(
        task.model,
        variables_of(state),
        batch,
        jax.random.fold_in(jax.random.key(1), state.step),
        mutable=("batch_stats", "intermediates"),
    )
    return list(found["intermediates"]["activation_input"])


def wasserstein(old: jax.Array, new: jax.Array) -> jax.Array:
    """Returns the mean over units of the Wasserstein distance, in standard deviations.

    In one dimension the distance is the mean difference of the sorted values.
    """
    distance = jnp.abs(jnp.sort(new, 0) - jnp.sort(old, 0)).mean(0)
    spread = 0.5 * (old.std(0) + new.std(0))
    return jnp.mean(distance / jnp.maximum(spread, 1e-6))


def smoothness(task: Task, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
    """Returns the largest relative change of loss and gradient along the gradient."""

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _ = training_forward(task.model, variables, batch, jax.random.key(2))
        one_hot = jax.nn.one_hot(batch.label, logits.shape[-1])
        return optax.softmax_cross_entropy(logits, one_hot).mean()

    value, gradient = jax.value_and_grad(loss)(state.params)
    rate = optax.tree_utils.tree_get(state.opt_state, "step_size")

    def along(fraction):
        params = jax.tree.map(
            lambda p, g: p - fraction * rate * g, state.params, gradient
        )
        other, there = jax.value_and_grad(loss)(params)
        off = jax.tree.map(jnp.subtract, there, gradient)
        change = _norm(off) / _norm(gradient)
        return change, jnp.abs(other - value) / value

    changes, losses = jax.lax.map(along, jnp.array(FRACTIONS))
    return {"gradient_change": changes.max(), "loss_change": losses.max()}


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
