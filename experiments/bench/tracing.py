# SPDX-License-Identifier: Apache-2.0
"""The cost of a norm before a program runs: tracing, lowering, calls without `jit`."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.bench.network import network_of, norms_of
from experiments.bench.timing import Benchmark
from experiments.config import BenchConfig
from experiments.data import Batch
from experiments.train.steps import Task, init_state, train_step

NUM_CASES = 3


def benchmarks(config: BenchConfig) -> Iterator[Benchmark]:
    """Yields each case, of a ResNet-50 and of a layer."""
    norms = norms_of(config)
    yield Benchmark(
        "trace and lower a training step of ResNet-50",
        {name: _traced(norm, config) for name, norm in norms.items()},
        warm_up=1,
    )
    yield Benchmark("a call without jit", _of_layer(config, backward=False))
    yield Benchmark("a gradient without jit", _of_layer(config, backward=True))


def _traced(norm: Callable[..., nn.Module], config: BenchConfig) -> Callable[[], Any]:
    task = Task(network_of(norm, config, "resnet50"), optax.sgd(0.1, momentum=0.9))
    image, label = np.zeros((8, 224, 224, 3), np.float32), np.zeros(8, np.int32)
    state = init_state(task, image[:2], np.uint32(config.seed))

    def trace() -> None:
        jax.clear_caches()
        jax.jit(functools.partial(train_step, task)).lower(state, Batch(image, label))

    return trace


def _of_layer(config: BenchConfig, *, backward: bool) -> dict[str, Callable[[], Any]]:
    """Calls of a layer on a small batch, for which the arithmetic takes no time."""
    x = jnp.ones((8, 4, 4, 16))
    calls = {}
    for name, make in norms_of(config).items():
        norm = make(use_running_average=False)
        variables = norm.init(jax.random.key(config.seed), x)

        def forward(x: jax.Array, norm: nn.Module = norm, variables: Any = variables):
            return norm.apply(variables, x, mutable=["batch_stats"])

        def loss(x: jax.Array, forward: Callable[..., Any] = forward) -> jax.Array:
            return jnp.sum(forward(x)[0])

        call = jax.grad(loss) if backward else forward
        calls[name] = functools.partial(_wait, call, x)
    return calls


def _wait(call: Callable[[jax.Array], Any], x: jax.Array) -> Any:
    return jax.block_until_ready(call(x))
