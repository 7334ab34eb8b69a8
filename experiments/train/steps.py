# SPDX-License-Identifier: Apache-2.0
"""The pure steps on a state: one of training, one of evaluation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from experiments.data import Batch
from experiments.train.optimizers import is_kernel


class TrainState(NamedTuple):
    """All that training carries from step to step."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    rng: jax.Array  # raw key of the run; each step folds its number in
    average: Any  # of the parameters; empty where none is kept


class Task(NamedTuple):
    """What is static in a step; hashable."""

    model: nn.Module
    optimizer: optax.GradientTransformation
    label_smoothing: float = 0.0
    axis_name: str | None = None  # over which the batch is cut by hand
    sums_gradients: bool = False  # of the shards, which is left to us under `pmap`
    average_decay: float | None = None


class Scores(NamedTuple):
    """Mean cross-entropy and accuracy of the examples that count, and how many do."""

    loss: jax.Array
    accuracy: jax.Array
    count: jax.Array


@functools.partial(jax.jit, static_argnums=0)  # whole, which takes a fifth of the time
def init_state(task: Task, image: Any, seed: Any, init_scale: Any = 1.0) -> TrainState:
    """Returns the state before the first step, kernels times `init_scale`."""
    keys = {name: jax.random.key(seed) for name in ("params", "dropout")}
    variables = task.model.init(keys, image, train=True)
    params = jax.tree.map(
        lambda p, kernel: p * init_scale if kernel else p,
        variables["params"],
        is_kernel(variables["params"]),
    )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=task.optimizer.init(params),
        rng=jax.random.key_data(jax.random.key(seed)),
        average={} if task.average_decay is None else params,
    )


def train_step(
    task: Task, state: TrainState, batch: Batch
) -> tuple[TrainState, Scores]:
    """One step: batch statistics, gradient, update."""
    count = _count(batch, task.axis_name)

    def loss(params):
        logits, updates = task.model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch.image,
            train=True,
            mask=batch.mask,
            mutable=["batch_stats"],
            rngs={"dropout": _key(state)},
        )
        part = _part(logits, batch, count, task.label_smoothing)
        return part.loss, (part, updates.get("batch_stats", {}))

    gradient, (part, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
    if task.sums_gradients:
        gradient = lax.psum(gradient, task.axis_name)
    updates, opt_state = task.optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if task.average_decay is not None:
        average = optax.incremental_update(params, average, 1 - task.average_decay)
    new = TrainState(state.step + 1, params, batch_stats, opt_state, state.rng, average)
    return new, _together(part, task.axis_name)


def eval_step(task: Task, state: TrainState, batch: Batch) -> Scores:
    """Scores a batch by the running averages."""
    logits = task.model.apply(variables_of(state), batch.image, train=False)
    part = _part(logits, batch, _count(batch, task.axis_name), 0.0)
    return _together(part, task.axis_name)


def _key(state: TrainState) -> jax.Array:
    """The key of this step's draws."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)


def _count(batch: Batch, axis_name: str | None) -> jax.Array:
    """How many examples count, on all shards."""
    if batch.mask is None:
        count = jnp.asarray(len(batch.label), jnp.float32)
    else:
        count = jnp.sum(batch.mask, dtype=jnp.float32)
    return count if axis_name is None else lax.psum(count, axis_name)


def _part(logits: Any, batch: Batch, count: jax.Array, smoothing: float) -> Scores:
    """What this shard adds to the means."""
    logits = logits.astype(jnp.float32)
    targets = jax.nn.one_hot(batch.label, logits.shape[-1])
    if smoothing:
        targets = optax.smooth_labels(targets, smoothing)
    losses = optax.softmax_cross_entropy(logits, targets)
    right = jnp.asarray(logits.argmax(-1) == batch.label, jnp.float32)
    if batch.mask is not None:
        losses, right = (jnp.where(batch.mask, v, 0) for v in (losses, right))
    return Scores(jnp.sum(losses) / count, jnp.sum(right) / count, count)


def _together(part: Scores, axis_name: str | None) -> Scores:
    if axis_name is None:
        return part
    loss, accuracy = lax.psum((part.loss, part.accuracy), axis_name)
    return Scores(loss, accuracy, part.count)


@functools.cache  # the same function again, so that nothing is compiled again
def training_forward(model: nn.Module) -> Callable[[Any, Any], Any]:
    """Returns what `jaxbn.population` estimates from: the model as in training."""

    def apply(variables: Any, image: Any):
        return model.apply(
            variables,
            image,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )

    return apply


def variables_of(state: TrainState) -> dict[str, Any]:
    """Returns what the model is applied with."""
    return {"params": state.params, "batch_stats": state.batch_stats}
