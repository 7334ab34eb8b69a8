# SPDX-License-Identifier: Apache-2.0
"""The optimizers and schedules, all from optax."""

import functools
from typing import Any

import jax
import optax

from experiments.config import OptimizerConfig

MOMENTUM = 0.9


@functools.cache  # one object for each config, so that steps are compiled once
def make_optimizer(
    config: OptimizerConfig, num_steps: int
) -> optax.GradientTransformation:
    """Returns the optimizer of a run of `num_steps` steps."""
    optimizer = _by_name(config, make_schedule(config, num_steps))
    if config.clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    if config.accumulate_steps > 1:
        return optax.MultiSteps(
            optimizer, config.accumulate_steps
        ).gradient_transformation()
    return optimizer


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule | float:
    """Returns the learning rate, or its schedule over the updates."""
    rate, warmup = config.learning_rate, config.warmup_steps // config.accumulate_steps
    updates = max(1, num_steps // config.accumulate_steps)
    if config.schedule == "cosine":
        # optax counts the warm-up as part of the decay.
        return optax.warmup_cosine_decay_schedule(
            rate if warmup == 0 else 0.0, rate, warmup, max(updates, warmup + 1)
        )
    return optax.linear_schedule(0.0, rate, warmup) if warmup else rate


def learning_rate(config: OptimizerConfig, num_steps: int, step: int) -> float:
    """Returns the learning rate of the update that a step, counted from 1, is part of.

    That is the update of the step itself unless gradients are accumulated.
    """
    rate = make_schedule(config, num_steps)
    schedule = rate if callable(rate) else optax.constant_schedule(rate)
    value: Any = schedule((step - 1) // config.accumulate_steps)
    return float(value)


def is_kernel(params: Any) -> Any:
    """Returns which parameters have weight decay: not scales, nor biases."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _by_name(
    config: OptimizerConfig, rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    decay = config.weight_decay
    match config.name:
        case "adam":
            return optax.adam(rate)
        case "rmsprop":
            return optax.rmsprop(rate)
        case "adamw":
            return optax.adamw(rate, weight_decay=decay, mask=is_kernel)
        case "lars":
            return optax.lars(
                rate,
                decay,
                weight_decay_mask=is_kernel,
                trust_ratio_mask=is_kernel,
                momentum=MOMENTUM,
                nesterov=True,
            )
        case "momentum":
            descent = optax.sgd(rate, momentum=MOMENTUM, nesterov=True)
        case _:
            descent = optax.sgd(rate)
    if decay:
        return optax.chain(optax.add_decayed_weights(decay, is_kernel), descent)
    return descent
