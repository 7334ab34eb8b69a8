# SPDX-License-Identifier: Apache-2.0
"""The test set, scored by the running averages."""

import math
from collections.abc import Iterator

from experiments.data import ArraySource, Batch, Source, eval_batches
from experiments.train.parallel import Parallel, mapped
from experiments.train.steps import Task, TrainState, eval_step

EVAL_BATCH = 512  # examples, or all there are


class Evaluation:
    """Every example once; a test set in memory stays on the devices."""

    def __init__(self, source: Source, task: Task, parallel: Parallel):
        """Cuts the examples into batches."""
        num = parallel.num_devices
        self._batch_size = math.ceil(min(EVAL_BATCH, len(source)) / num) * num
        self._source, self._parallel = source, parallel
        self._step = mapped(parallel, eval_step, task)
        in_memory = isinstance(source, ArraySource)
        self._held = list(self._batches()) if in_memory else None

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns mean loss and accuracy."""
        held = self._batches() if self._held is None else self._held
        found = [self._parallel.get_scores(self._step(state, batch)) for batch in held]
        total = sum(float(scores.count) for scores in found)
        loss = sum(float(s.loss) * float(s.count) for s in found) / total
        right = sum(float(s.accuracy) * float(s.count) for s in found) / total
        return {"test_loss": loss, "test_accuracy": right}

    def _batches(self) -> Iterator[Batch]:
        for batch in eval_batches(self._source, self._batch_size):
            yield self._parallel.put_batch(batch)
