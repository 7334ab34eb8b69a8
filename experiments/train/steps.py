# SPDX-License-Identifier: Apache-2.0
"""The pure steps on a state: one of training, one of evaluation."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from experiments.data import Batch
from experiments.train.optimizers import is_kernel
from jaxbn import RunningStats
from jaxbn.linen import begin_accumulation, commit

TOP = 5


class TrainState(NamedTuple):
    """All that training carries from step to step."""

    step: jax.Array
    params: Any
    batch_stats: Any  # they accumulate where gradients do; see `running_stats`
    opt_state: optax.OptState
    rng: jax.Array  # raw key of the run; each step folds its number in
    average: Any  # of the parameters; empty unless `Task.average_decay` is set


class Task(NamedTuple):
    """The static part of a step; hashable."""

    model: nn.Module
    optimizer: optax.GradientTransformation
    label_smoothing: float = 0.0
    axis_name: str | None = None  # the mapped axis that shards the batch
    sums_gradients: bool = False  # over that axis; only `pmap` leaves this to the step
    average_decay: float | None = None


class Scores(NamedTuple):
    """Means over the examples that count, and their number."""

    loss: jax.Array  # cross-entropy
    accuracy: jax.Array
    count: jax.Array
    gradient_norm: jax.Array | None = None  # of a step of training
    top5_accuracy: jax.Array | None = None  # in evaluation, of more than five classes


@functools.partial(jax.jit, static_argnums=0)  # takes a fifth of the time without jit
def init_state(task: Task, image: Any, seed: Any, init_scale: Any = 1.0) -> TrainState:
    """Returns the state before the first step, kernels times `init_scale`."""
    keys = {name: jax.random.key(seed) for name in ("params", "dropout")}
    variables = task.model.init(keys, image, train=True)
    params = jax.tree.map(
        lambda p, kernel: p * init_scale if kernel else p,
        variables["params"],
        is_kernel(variables["params"]),
    )
    opt_state = task.optimizer.init(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=before_update(variables.get("batch_stats", {}), opt_state),
        opt_state=opt_state,
        rng=jax.random.key_data(jax.random.key(seed)),
        average={} if task.average_decay is None else params,
    )


def training_forward(
    model: nn.Module,
    variables: Any,
    batch: Batch,
    key: jax.Array,
    *,
    mutable: tuple[str, ...] = ("batch_stats",),
) -> tuple[jax.Array, Any]:
    """Applies the model as in training, by the statistics of the batch.

    Returns:
        The logits, and the updated collections.
    """
    return model.apply(
        variables,
        batch.image,
        train=True,
        mask=batch.mask,
        mutable=mutable,
        rngs={"dropout": key},
    )


def train_step(
    task: Task, state: TrainState, batch: Batch
) -> tuple[TrainState, Scores]:
    """Takes one step: batch statistics, gradient, update.

    The gradient's norm is over all parameters together, before it is clipped; where
    gradients are accumulated, that of this batch alone. There the running
    statistics move with the parameters, by all batches of the update.
    """
    count = _count(batch, task.axis_name)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = training_forward(task.model, variables, batch, key)
        part = _scores_of_shard(logits, batch, count, task.label_smoothing)
        return part.loss, (part, updates.get("batch_stats", {}))

    gradient, (part, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
    if task.sums_gradients:
        gradient = lax.psum(gradient, task.axis_name)
    updates, opt_state = task.optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    batch_stats = _after_update(batch_stats, opt_state)
    average = state.average
    if task.average_decay is not None:
        average = optax.incremental_update(params, average, 1 - task.average_decay)
    new = TrainState(state.step + 1, params, batch_stats, opt_state, state.rng, average)
    scores = _sum_over_shards(part, task.axis_name)
    return new, scores._replace(gradient_norm=optax.tree.norm(gradient))


def eval_step(task: Task, state: TrainState, batch: Batch) -> Scores:
    """Scores a batch by the running statistics."""
    logits: Any = task.model.apply(variables_of(state), batch.image, train=False)
    count = _count(batch, task.axis_name)
    part = _scores_of_shard(logits, batch, count, 0.0)
    if logits.shape[-1] > TOP:
        right = _is_in_top(logits, batch.label)
        part = part._replace(top5_accuracy=_mean(right, batch, count))
    return _sum_over_shards(part, task.axis_name)


def variables_of(state: TrainState) -> dict[str, Any]:
    """Returns the variables that the model is applied with."""
    return {"params": state.params, "batch_stats": running_stats(state.batch_stats)}


def running_stats(batch_stats: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the running statistics alone, without what batches have accumulated."""
    return {
        name: running_stats(value) if isinstance(value, Mapping) else value
        for name, value in batch_stats.items()
        if isinstance(value, Mapping) or name in RunningStats._fields
    }


def before_update(batch_stats: Any, opt_state: optax.OptState) -> Any:
    """Returns running statistics as a step takes them: they accumulate if it does."""
    if not batch_stats or _num_accumulated(opt_state) is None:
        return batch_stats
    return begin_accumulation(jax.tree.map(jnp.asarray, batch_stats))


def _after_update(batch_stats: Any, opt_state: optax.OptState) -> Any:
    """Commits what has accumulated, and begins afresh, where the optimizer has."""
    num = _num_accumulated(opt_state)
    if not batch_stats or num is None:
        return batch_stats
    # A select, not a branch: it is the same under `vmap`, and on every device.
    return jax.tree.map(
        functools.partial(jnp.where, num == 0),
        begin_accumulation(commit(batch_stats)),
        batch_stats,
    )


def _num_accumulated(opt_state: optax.OptState) -> Any:
    """Returns of how many batches the optimizer holds gradients, None if of none ever.

    After the last batch of an update that is 0 again.
    """
    return optax.tree.get(opt_state, "mini_step")


def _count(batch: Batch, axis_name: str | None) -> jax.Array:
    """Returns how many examples count, on all shards together."""
    if batch.mask is None:
        count = jnp.asarray(len(batch.label), jnp.float32)
    else:
        count = jnp.sum(batch.mask, dtype=jnp.float32)
    return count if axis_name is None else lax.psum(count, axis_name)


def _scores_of_shard(
    logits: Any, batch: Batch, count: jax.Array, smoothing: float
) -> Scores:
    """Returns what the examples of this shard add to the means."""
    logits = logits.astype(jnp.float32)
    targets = jax.nn.one_hot(batch.label, logits.shape[-1])
    if smoothing:
        targets = optax.smooth_labels(targets, smoothing)
    losses = optax.softmax_cross_entropy(logits, targets)
    right = logits.argmax(-1) == batch.label
    return Scores(_mean(losses, batch, count), _mean(right, batch, count), count)


def _mean(values: jax.Array, batch: Batch, count: jax.Array) -> jax.Array:
    """Returns what the examples of this shard add to a mean over those that count."""
    values = jnp.asarray(values, jnp.float32)
    if batch.mask is not None:
        values = jnp.where(batch.mask, values, 0)
    return jnp.sum(values) / count


def _is_in_top(logits: jax.Array, label: Any) -> jax.Array:
    """Returns whether fewer than five classes have a larger logit than the label's.

    A logit that is NaN counts as larger, also than itself.
    """
    own = jnp.take_along_axis(logits, label[:, None], -1)
    return jnp.sum(~(logits <= own), -1) < TOP


def _sum_over_shards(part: Scores, axis_name: str | None) -> Scores:
    if axis_name is None:
        return part
    means = part._replace(count=None)
    return lax.psum(means, axis_name)._replace(count=part.count)
