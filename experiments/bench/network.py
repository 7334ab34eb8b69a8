# SPDX-License-Identifier: Apache-2.0
"""A residual network with the norm of each library: a training step, or inference."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn

from experiments.bench.timing import Benchmark
from experiments.config import BenchConfig
from experiments.data import Batch
from experiments.models import NETWORKS
from experiments.models.norms import of_the_batch
from experiments.train.steps import Task, init_state, train_step
from jaxbn.folding import fold
from jaxbn.linen import BatchNorm

NUM_CLASSES = 1000
SIZES = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")


def benchmark(config: BenchConfig) -> Benchmark:
    """Returns the compiled steps, and the bytes that each holds in memory at its peak.

    Flax's norm gets the dtype of the computation, which jaxbn's takes from its input.
    """
    calls, memory = {}, {}
    for name, norm in norms_of(config).items():
        step, arguments = _compiled(norm, config)
        used: Any = step.memory_analysis()
        calls[name] = functools.partial(_wait, step, arguments)
        memory[name] = sum(getattr(used, size) for size in SIZES)
    return Benchmark("training step", calls, {"memory": memory})


def inference_benchmark(config: BenchConfig) -> Benchmark:
    """Returns inference with each norm, and with jaxbn's folded into the kernels."""
    rng = np.random.default_rng(config.seed)
    image = jax.device_put(rng.random(config.shape, np.float32))
    functions: dict[str, tuple[Callable[..., Any], Any]] = {}
    for name, norm in norms_of(config).items():
        model = network_of(norm, config, config.network)
        key = jax.random.key(config.seed)
        variables = jax.jit(functools.partial(model.init, train=False))(key, image[:2])
        functions[name] = functools.partial(model.apply, train=False), variables
    function, variables = functions["jaxbn"]
    folded = fold(function, variables, image)
    functions["folded"] = folded.function, folded.params
    calls, memory = {}, {}
    for name, (function, params) in functions.items():
        step = jax.jit(function).lower(params, image).compile()
        used: Any = step.memory_analysis()
        calls[name] = functools.partial(_wait, step, (params, image))
        memory[name] = sum(getattr(used, size) for size in SIZES)
    return Benchmark("inference", calls, {"memory": memory})


def norms_of(config: BenchConfig) -> dict[str, Callable[..., nn.Module]]:
    """Returns the norm of each library."""
    return {
        "jaxbn": functools.partial(BatchNorm, momentum=0.9),
        "flax": functools.partial(nn.BatchNorm, momentum=0.9, dtype=config.dtype),
    }


def network_of(
    norm: Callable[..., nn.Module], config: BenchConfig, name: str
) -> nn.Module:
    """Returns a network with the norm."""
    return NETWORKS[name](
        norm=functools.partial(of_the_batch, norm),
        num_classes=NUM_CLASSES,
        dtype=config.dtype,
    )


def _wait(step: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return jax.block_until_ready(step(*arguments))


def _compiled(
    norm: Callable[..., nn.Module], config: BenchConfig
) -> tuple[jax.stages.Compiled, tuple[Any, ...]]:
    """Returns a step of SGD with momentum, and its arguments."""
    model = network_of(norm, config, config.network)
    task = Task(model, optax.sgd(0.1, momentum=0.9, nesterov=True))
    rng = np.random.default_rng(config.seed)
    image = rng.random(config.shape, np.float32)
    label = rng.integers(0, NUM_CLASSES, config.shape[0]).astype(np.int32)
    state = init_state(task, image[:2], np.uint32(config.seed))
    arguments = jax.device_put((state, Batch(image, label)))
    step = jax.jit(functools.partial(train_step, task))
    return step.lower(*arguments).compile(), arguments
