# SPDX-License-Identifier: Apache-2.0
"""The loop: pure steps on a state, and a generator of what there is to report."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from experiments.config import ExperimentConfig, OptimizerConfig
from experiments.data import Batch, batches, load_dataset
from experiments.metrics import Record
from experiments.models import make_model


class TrainState(NamedTuple):
    """All that training carries from step to step."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState


class Scores(NamedTuple):
    """Mean cross-entropy and accuracy of a batch."""

    loss: jax.Array
    accuracy: jax.Array


@functools.cache  # the same object again, so that nothing is compiled again
def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns the optimizer that the config names."""
    rate = config.learning_rate
    if config.name == "adam":
        return optax.adam(rate)
    if config.name == "momentum":
        return optax.sgd(rate, momentum=0.9, nesterov=True)
    return optax.sgd(rate)


def init_state(
    model: nn.Module, optimizer: optax.GradientTransformation, image: Any, seed: int
) -> TrainState:
    """Returns the state before the first step."""
    variables = _init(model, jax.random.key(seed), image)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
    )


@functools.partial(jax.jit, static_argnums=0)
def _init(model: nn.Module, key: jax.Array, image: Any) -> Any:
    """Parameters and statistics; compiled whole, which takes a fifth of the time."""
    return model.init(key, image, train=True)


def score(logits: Any, label: Any) -> Scores:
    """Returns how well the logits tell the labels."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
    return Scores(loss, (logits.argmax(-1) == label).mean())


@functools.partial(jax.jit, static_argnums=(0, 1))
def train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, Scores]:
    """One step: batch statistics, gradient, update."""

    def loss(params):
        logits, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch.image,
            train=True,
            mutable=["batch_stats"],
        )
        scores = score(logits, batch.label)
        return scores.loss, (scores, updates.get("batch_stats", {}))

    gradient, (scores, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), scores


@functools.partial(jax.jit, static_argnums=0)
def eval_step(model: nn.Module, state: TrainState, batch: Batch) -> Scores:
    """Scores a batch by the running averages."""
    return score(
        model.apply(variables_of(state), batch.image, train=False), batch.label
    )


@functools.cache  # the same function again, so that nothing is compiled again
def training_forward(model: nn.Module) -> Callable[[Any, Any], Any]:
    """Returns what `jaxbn.population` estimates from: the model as in training."""

    def apply(variables: Any, image: Any):
        return model.apply(variables, image, train=True, mutable=["batch_stats"])

    return apply


def variables_of(state: TrainState) -> dict[str, Any]:
    """Returns what the model is applied with."""
    return {"params": state.params, "batch_stats": state.batch_stats}


def train(config: ExperimentConfig) -> Iterator[Record]:
    """Trains, and yields what there is to report as it goes.

    The same config gives the same numbers, but for the times.
    """
    dataset = load_dataset(config.data.name)
    model = make_model(config.model, config.norm, dataset.num_classes)
    optimizer = make_optimizer(config.optimizer)
    first = next(batches(dataset.train, config.data.batch_size, config.seed))
    state = init_state(model, optimizer, first.image, config.seed)
    test = jax.device_put(dataset.test)
    stream = batches(dataset.train, config.data.batch_size, config.seed)
    last = config.train.num_steps
    # Compiles outside the times; the result is not used.
    jax.block_until_ready(train_step(model, optimizer, state, first))
    window: list[Scores] = []
    seconds = 0.0
    for number, batch in zip(range(1, last + 1), stream, strict=False):
        log = number % config.train.log_every == 0 or number == last
        start = time.perf_counter()
        state, scores = train_step(model, optimizer, state, batch)
        if log:
            jax.block_until_ready(scores)
        seconds += time.perf_counter() - start
        window.append(scores)
        fields: dict[str, float] = {}
        if log:
            fields |= _window_means(window, seconds)
            window, seconds = [], 0.0
        if number % config.train.eval_every == 0 or number == last:
            scores = eval_step(model, state, test)
            fields["test_loss"] = float(scores.loss)
            fields["test_accuracy"] = float(scores.accuracy)
        if fields:
            yield Record(number, **fields)


def _window_means(window: list[Scores], seconds: float) -> dict[str, float]:
    """The training metrics of the steps since the last record."""
    count = len(window)
    return {
        "loss": sum(float(s.loss) for s in window) / count,
        "accuracy": sum(float(s.accuracy) for s in window) / count,
        "ms_per_step": 1e3 * seconds / count,
    }
