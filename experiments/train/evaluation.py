# SPDX-License-Identifier: Apache-2.0
"""How a state scores on the test set, and the statistics that it is scored by.

Those of the weights are the running statistics. Those of averaged weights, which no
step has seen, are estimated from training examples.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from experiments.data import ArraySource, Batch, EvalBatches, Source
from experiments.train.memory import require_room_for
from experiments.train.parallel import Parallel, mapped
from experiments.train.steps import (
    Task,
    TrainState,
    eval_step,
    running_stats,
    training_forward,
    variables_of,
)
from jaxbn import population

EVAL_BATCH = 512  # examples, or all if there are fewer


class Evaluation:
    """Scores every example once; a test set in memory stays on the devices."""

    def __init__(self, source: Source, task: Task, parallel: Parallel):
        """Compiles nothing yet; puts a test set in memory on the devices."""
        num = parallel.num_devices
        self._batch_size = math.ceil(min(EVAL_BATCH, len(source)) / num) * num
        self._source, self._parallel = source, parallel
        self._step: Any = mapped(parallel, eval_step, task)
        in_memory = isinstance(source, ArraySource)
        self._on_devices = list(self._batches()) if in_memory else None

    def require_room(self, state: TrainState) -> None:
        """Compiles, and requires that the memory suffices."""
        batch = next(iter(self._on_devices or self._batches()))
        compiled = self._step.lower(_committed(state), batch).compile()
        devices = self._parallel.local_devices
        require_room_for(compiled, devices, "an evaluation", smaller="model.hidden")

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns the means of the measures over all examples."""
        state = _committed(state)
        batches = self._batches() if self._on_devices is None else self._on_devices
        found = [self._parallel.get_scores(self._step(state, b)) for b in batches]
        total = sum(float(scores.count) for scores in found)
        means = {}
        for name in ("loss", "accuracy", "top5_accuracy"):
            parts = [(getattr(s, name), float(s.count)) for s in found]
            if parts[0][0] is not None:
                mean = sum(float(value) * count for value, count in parts) / total
                means[f"test_{name}"] = mean
        return means

    def _batches(self) -> Iterator[Batch]:
        for batch in EvalBatches(self._source, self._batch_size):
            yield self._parallel.put_batch(batch)


def _committed(state: TrainState) -> TrainState:
    """Returns the state with running statistics alone, as averaged weights have them.

    So that one program scores both.
    """
    return state._replace(batch_stats=running_stats(state.batch_stats))


def with_average(model: nn.Module, state: TrainState, source: Source) -> TrainState:
    """Returns the averaged weights with the statistics of these training examples.

    `model` is one that binds no axis: each process runs its share of each batch on one
    device, and the statistics are merged across processes.
    """
    size = min(EVAL_BATCH, len(source))
    size += -size % jax.process_count()
    host = jax.tree.map(np.asarray, state)
    averaged = host._replace(params=host.average)
    return with_population_stats(model, averaged, EvalBatches(source, size))


def with_population_stats(
    model: nn.Module,
    state: TrainState,
    batches: Iterable[Batch],
    *,
    prior_count: float = 0.0,
) -> TrainState:
    """Returns the state with the statistics of all these batches, layer after layer.

    `prior_count` is that of `jaxbn.population.estimate_linen`.
    """
    if not state.batch_stats:
        return state
    variables, _ = population.estimate_linen(
        _population_forward(model),
        variables_of(state),
        batches,
        layerwise=True,
        prior_count=prior_count,
        progress=False,
    )
    return state._replace(batch_stats=variables["batch_stats"])


@functools.cache  # one function for each model, so that it is compiled once
def _population_forward(model: nn.Module) -> Callable[[Any, Batch], Any]:
    return lambda variables, batch: training_forward(
        model, variables, batch, jax.random.key(0)
    )
