# SPDX-License-Identifier: Apache-2.0
"""Batches, read ahead by Grain: this process's share of each.

The state of the iterator is the number of the next step.
"""

import dataclasses
from collections.abc import Callable, Iterator

import grain
import jax
import numpy as np

from experiments.config import DataConfig
from experiments.data.augment import augment
from experiments.data.examples import Batch, Source
from experiments.data.schedule import (
    NOTHING,
    epoch_of_step,
    fill_up,
    num_batches,
    rows_of_step,
)

FOR_EVER = 2**40  # steps


@dataclasses.dataclass(frozen=True)
class TrainingBatch:
    """Makes this process's share of the batch of a step."""

    source: Source
    config: DataConfig
    seed: int

    def __call__(self, step: int) -> Batch:
        """Reads and augments; the same for the same step."""
        num, size = len(self.source), self.config.batch_size
        empty = self.config.num_empty
        rows = rows_of_step(num, size, self.seed, step, empty)
        epoch = epoch_of_step(num, size, step, empty)

        def load(index: int) -> tuple[np.ndarray, int]:
            rng = np.random.default_rng((self.seed, epoch, index))
            image, label = self.source.load(index, rng)
            return augment(image, self.config, rng), label

        return _batch(load, rows)


def train_batches(
    source: Source, config: DataConfig, seed: int
) -> grain.DatasetIterator[Batch]:
    """Yields batches for ever."""
    options = grain.ReadOptions(config.num_threads, 2 * config.num_threads)
    steps = grain.MapDataset.range(FOR_EVER)
    made = steps.map(TrainingBatch(source, config, seed))
    return iter(made.to_iter_dataset(options))


def batches_of_each_kind(source: Source, config: DataConfig) -> Iterator[Batch]:
    """Yields a whole batch and a ragged one, where training has them."""
    num, used = len(source), config.batch_size - config.num_empty
    for kind in ([used] if num >= used else []) + ([num % used] if num % used else []):
        rows = fill_up(np.arange(kind), config.batch_size)
        yield _batch(lambda i: source.load(i, None), rows)


def eval_batches(source: Source, batch_size: int) -> Iterator[Batch]:
    """Yields all examples once, in order, without augmentation."""
    for k in range(num_batches(len(source), batch_size)):
        rows = np.arange(k * batch_size, min((k + 1) * batch_size, len(source)))
        yield _batch(lambda i: source.load(i, None), fill_up(rows, batch_size))


def _batch(load: Callable[[int], tuple[np.ndarray, int]], rows: np.ndarray) -> Batch:
    """The examples of this process's rows; zeros where there is none."""
    all_count = bool(np.all(rows != NOTHING))  # the same in all processes
    share = len(rows) // jax.process_count()
    rows = rows[jax.process_index() * share :][:share]
    examples = [load(int(row)) for row in rows if row != NOTHING]
    shape = (examples[0] if examples else load(0))[0].shape
    counts = rows != NOTHING
    image, label = np.zeros((share, *shape), np.float32), np.zeros(share, np.int32)
    if examples:
        image[counts] = [image for image, _ in examples]
        label[counts] = [label for _, label in examples]
    return Batch(image, label, None if all_count else counts)
