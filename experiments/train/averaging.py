# SPDX-License-Identifier: Apache-2.0
"""Averaged weights, and the statistics that they need.

`average = decay * average + (1 - decay) * params` after each step. The running
statistics are of other weights; those of the average are estimated over the training
examples when it is evaluated.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from experiments.data import Batch, Source, eval_batches
from experiments.train.evaluation import EVAL_BATCH
from experiments.train.steps import TrainState
from jaxbn import population


def with_statistics(
    model: nn.Module, state: TrainState, source: Source, num_processes: int
) -> TrainState:
    """Returns the averaged weights with the statistics of all training examples.

    `model` is one that binds no axis: each process runs its own share on one device,
    and the records are merged across them.
    """
    host = jax.tree.map(np.asarray, state)
    if not host.batch_stats:
        return host._replace(params=host.average)
    size = min(EVAL_BATCH, len(source))
    size += -size % num_processes
    new, _ = population.estimate_linen(
        _forward(model),
        {"params": host.average, "batch_stats": host.batch_stats},
        list(eval_batches(source, size)),
        layerwise=True,
        progress=False,
    )
    stats = jax.tree.map(np.asarray, new["batch_stats"])
    return host._replace(params=host.average, batch_stats=stats)


@functools.cache  # the same function again, so that nothing is compiled again
def _forward(model: nn.Module) -> Callable[[Any, Batch], Any]:
    def apply(variables: Any, batch: Batch):
        return model.apply(
            variables,
            batch.image,
            train=True,
            mask=batch.mask,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )

    return apply
