# SPDX-License-Identifier: Apache-2.0
"""What the network benchmark times: the same step, with each library's norm."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn

from experiments.config import BenchConfig
from experiments.data import Batch
from experiments.models import NETWORKS
from experiments.models.norms import of_the_batch
from experiments.train.steps import Task, init_state, train_step
from jaxbn.linen import BatchNorm

TITLE = "training step"
NUM_CLASSES = 1000
NORMS = {"jaxbn": BatchNorm, "flax": nn.BatchNorm}


class NetworkStep(NamedTuple):
    """A compiled step, and what it holds in memory at its peak, in bytes."""

    run: Callable[[], Any]
    memory: int


def make_network_step(library: str, config: BenchConfig) -> NetworkStep | None:
    """Returns a step of SGD with momentum; None for a library without networks here.

    Flax's norm gets the dtype of the computation, which jaxbn's takes from its input.
    """
    if library not in NORMS:
        return None
    fields = {"momentum": 0.9} | ({"dtype": config.dtype} if library == "flax" else {})
    module = functools.partial(NORMS[library], **fields)
    network = NETWORKS[config.network]
    model = network(
        norm=functools.partial(of_the_batch, module),
        num_classes=NUM_CLASSES,
        dtype=config.dtype,
    )
    task = Task(model, optax.sgd(0.1, momentum=0.9, nesterov=True))
    rng = np.random.default_rng(config.seed)
    image = rng.random(config.shape, np.float32)
    label = rng.integers(0, NUM_CLASSES, config.shape[0]).astype(np.int32)
    state = init_state(task, image[:2], config.seed)
    arguments = jax.device_put((state, Batch(image, label)))
    step = jax.jit(functools.partial(train_step, task)).lower(*arguments).compile()
    used = step.memory_analysis()
    sizes = "argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes"
    return NetworkStep(
        lambda: jax.block_until_ready(step(*arguments)),
        sum(getattr(used, size) for size in sizes),
    )
