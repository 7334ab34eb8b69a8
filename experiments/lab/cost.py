# SPDX-License-Identifier: Apache-2.0
"""A probe on its own: time and memory of a training step, the variants in turn."""

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from experiments.config import StudyConfig, Variant
from experiments.lab.runs_table import SEED, Row, missing
from experiments.models.norms import Norm, make_norm
from experiments.models.resnet import RESNETS
from experiments.train.scanned import in_memory, make_task, program_config
from experiments.train.steps import init_state, train_step

LAYER = "layer"
"""The value of the setting `part` for a norm alone; other parts are networks."""
LAYER_SHAPE = (64, 16, 16, 64)
IMAGE_SHAPE = (32, 32, 3)
"""The shape of a residual network's random images, that of CIFAR's."""
CALLS = 3  # in each turn; their median is the measure
Step = Callable[[], object]


def rows(study: StudyConfig, found: list[Row]) -> Iterator[list[Row]]:
    """Yields the rows of all variants, a round at a time."""
    todo = sorted({seed for v in study.variants for seed in missing(study, v, found)})
    if not todo:
        return
    steps = [_compiled(variant) for variant in study.variants]
    for number in todo:
        order = [(number + k) % len(steps) for k in range(len(steps))]
        made = []
        for k in order:
            step, memory = steps[k]
            measures = {"ms": _median_ms(step), "memory_mb": memory / 1e6}
            made.append(dict(study.variants[k].settings) | {SEED: number} | measures)
        yield made


def _median_ms(step: Step) -> float:
    """Returns the median time of some calls."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        jax.block_until_ready(step())
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _compiled(variant: Variant) -> tuple[Step, int]:
    """Returns the warm step, and the bytes it needs in addition to its arguments."""
    if dict(variant.settings)["part"] == LAYER:
        step, arguments = _layer(variant)
    else:
        step, arguments = _network(variant)
    program = jax.jit(step).lower(*arguments).compile()
    jax.block_until_ready(program(*arguments))
    run = functools.partial(program, *arguments)
    used: Any = program.memory_analysis()
    return run, used.temp_size_in_bytes


def _network(variant: Variant) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Returns a training step and its arguments, on the first batch."""
    config = variant.experiment
    task = make_task(program_config(config))
    num = config.data.batch_size
    batch = jax.tree.map(lambda a: jnp.asarray(a[:num]), in_memory(config).train)
    if config.model.name in RESNETS:
        image = jax.random.normal(jax.random.key(0), (num, *IMAGE_SHAPE))
        batch = batch._replace(image=image)
    state = init_state(task, batch.image[:2], 0)
    return functools.partial(train_step, task), (state, batch)


class Alone(nn.Module):
    """A norm followed by ReLU."""

    norm: Norm

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Normalizes by batch statistics."""
        return nn.relu(self.norm(use_running_average=False, mask=None)(x))


def _layer(variant: Variant) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Returns forward and backward of the norm alone, and the arguments."""
    module = Alone(make_norm(variant.experiment.norm, None, None))
    x = jax.random.normal(jax.random.key(0), LAYER_SHAPE)
    variables = module.init(jax.random.key(1), x)

    def step(variables, x):
        def loss(variables, x):
            y, updates = module.apply(variables, x, mutable=["batch_stats"])
            return jnp.mean(y**2), updates

        return jax.grad(loss, (0, 1), has_aux=True)(variables, x)

    return step, (variables, x)
