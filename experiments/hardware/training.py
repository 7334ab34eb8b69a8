# SPDX-License-Identifier: Apache-2.0
"""The training step of a config on hardware that is not there."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun, jaxprs_in_params
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.config import ExperimentConfig
from experiments.data import Batch
from experiments.data.shapes import Shapes
from experiments.errors import UserError
from experiments.hardware.programs import (
    Costs,
    TooLarge,
    costs_of,
    lowered,
    with_sharding,
)
from experiments.hardware.targets import Target
from experiments.models import make_model
from experiments.models.norms import make_norm_of_flax
from experiments.train.parallel import AXIS, Parallel, make_mesh, mapped
from experiments.train.steps import Task, init_state, train_step
from experiments.train.tasks import make_task

OURS, FLAX = "jaxbn", "Flax"


class Step(NamedTuple):
    """The training step of one norm, to be compiled."""

    norm: str
    task: Task
    alone: Task  # the same on one device
    parallel: Parallel
    arguments: tuple[Any, Batch]  # shapes


def on(target: Target, config: ExperimentConfig) -> ExperimentConfig:
    """Returns the config as it would run on all devices of the target.

    Raises:
        UserError: they cannot share its batch.
    """
    num, train = len(target.devices), config.train
    mode = "shard_map" if config.parallel.mode == "pmap" else config.parallel.mode
    parallel = dataclasses.replace(config.parallel, mode=mode, num_devices=num)
    if train.num_epochs is not None:  # the program's size does not depend on it
        train = dataclasses.replace(train, num_epochs=None, num_steps=None)
    try:
        return dataclasses.replace(config, parallel=parallel, train=train)
    except ValueError as error:
        raise UserError(f"{target.name} has {num} devices: {error}") from error


def why_without_flax(config: ExperimentConfig) -> str | None:
    """Returns why Flax's batch norm does not do the same, if it does not."""
    norm = config.norm
    if norm.kind != "batch":
        return f"norm.kind is {norm.kind}"
    if norm.virtual_batch_size is not None or config.parallel.statistics != "global":
        return "Flax's norm has no statistics of parts of a batch"
    for name in ("debias", "unbiased"):
        if getattr(norm, name):
            return f"Flax's norm has no norm.{name}"
    if config.optimizer.accumulate_steps > 1:
        return "Flax's norm moves its statistics at each batch, not at each update"
    return None


def steps(target: Target, config: ExperimentConfig, shapes: Shapes) -> Iterator[Step]:
    """Yields the step with jaxbn's norm, then with Flax's where it does the same.

    Args:
        target: the hardware.
        config: as `on` returns it.
        shapes: of its data.
    """
    parallel = Parallel(config.parallel.mode, make_mesh(target.devices))
    task = make_task(config, shapes.num_classes, parallel)
    model: Any = make_model(config, shapes.num_classes)  # binds no axis
    alone = task._replace(model=model, axis_name=None)
    yield Step(OURS, task, alone, parallel, _arguments(config, shapes, alone))
    if why_without_flax(config) is None:
        task, alone = (_with_norm_of_flax(config, one) for one in (task, alone))
        yield Step(FLAX, task, alone, parallel, _arguments(config, shapes, alone))


def _with_norm_of_flax(config: ExperimentConfig, task: Task) -> Task:
    norm = make_norm_of_flax(config.norm, task.axis_name, config.train.dtype)
    model: Any = task.model
    return task._replace(model=model.clone(norm=norm))


def compiled(target: Target, step: Step) -> Costs | TooLarge:
    """Compiles the step, and returns what it takes on each device."""
    state, batch = step.arguments
    mesh = step.parallel.mesh
    state = with_sharding(state, NamedSharding(mesh, P()))
    batch = with_sharding(batch, NamedSharding(mesh, P(AXIS)))
    function = mapped(step.parallel, train_step, step.task)
    return costs_of(target, lowered(function, target, state, batch))


def flops_of(step: Step) -> float:
    """Returns the operations of a step on each device, as XLA counts them on a CPU."""
    function = functools.partial(train_step, step.alone)
    return _flops(jax.make_jaxpr(function)(*step.arguments)) / step.parallel.num_devices


def _flops(program: ClosedJaxpr) -> float:
    """Returns the operations of a program, loops as often as they turn."""
    total = _flops_of_one_turn(program)
    for num_turns, body in _loops(program.jaxpr):
        total += num_turns * _flops(body) - _flops_of_one_turn(body)
    return total


def _flops_of_one_turn(program: ClosedJaxpr) -> float:
    """Returns the operations as XLA counts them: of loops one turn."""
    lowered = jax.jit(jaxpr_as_fun(program)).lower(*program.in_avals)
    counted: Any = lowered.cost_analysis()
    return counted["flops"]


def _loops(program: Jaxpr) -> Iterator[tuple[int, ClosedJaxpr]]:
    """Yields the outer loops, how often they turn and what they do."""
    for equation in program.eqns:
        params = equation.params
        if equation.primitive.name == "scan":
            yield params["length"], params["jaxpr"]
        elif equation.primitive.name == "while":
            yield 0, params["body_jaxpr"]  # as in `hlo.num_turns`
        else:
            for inner in jaxprs_in_params(params):
                yield from _loops(inner)


def _arguments(
    config: ExperimentConfig, shapes: Shapes, alone: Task
) -> tuple[Any, Batch]:
    """Returns the shapes of state and batch."""
    size = config.data.batch_size
    shape: Any = jax.ShapeDtypeStruct
    batch = Batch(
        shape((size, *shapes.image), jnp.float32),
        shape((size,), jnp.int32),
        shape((size,), jnp.bool) if config.data.num_empty else None,
    )
    few, seed = shape((2, *shapes.image), jnp.float32), shape((), jnp.uint32)
    state = jax.eval_shape(functools.partial(init_state, alone), few, seed)
    return state, batch
