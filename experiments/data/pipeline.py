# SPDX-License-Identifier: Apache-2.0
"""From examples to batches: which are in each, augmented, and read ahead by Grain.

A training batch is a function of seed and step alone, so that any number of processes,
started at any step, agree on it; each reads its own share. The state of the iterator is
the number of the next step.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import grain
import jax
import numpy as np

from experiments.config import DataConfig, ExperimentConfig
from experiments.data.examples import Batch, Source
from experiments.data.images import augment

EMPTY = -1
"""A row of a batch without an example."""
ENDLESS = 2**40  # steps


def rows_of_step(
    num_examples: int, batch_size: int, seed: int, step: int, num_empty: int = 0
) -> np.ndarray:
    """Returns the indices of the examples in the batch of a step, counted from 0.

    Shuffled epochs follow each other, and each has every example once. The last batch
    of an epoch is filled up with `EMPTY`, as are the last `num_empty` rows of each.
    """
    used = batch_size - num_empty
    epoch, place = divmod(step, _num_batches(num_examples, used))
    rows = _permutation(num_examples, seed, epoch)
    return _fill_up(rows[place * used : (place + 1) * used], batch_size)


def in_steps(config: ExperimentConfig, num_examples: int) -> ExperimentConfig:
    """Returns the config with its length in steps, where it has it in epochs."""
    epochs, data = config.train.num_epochs, config.data
    if epochs is None:
        return config
    per_epoch = _num_batches(num_examples, data.batch_size - data.num_empty)
    steps = {"num_epochs": None, "num_steps": max(1, round(epochs * per_epoch))}
    train = dataclasses.replace(config.train, **steps)
    return dataclasses.replace(config, train=train)


def _num_batches(num_examples: int, batch_size: int) -> int:
    """Returns the number of batches in an epoch."""
    return math.ceil(num_examples / batch_size)


def _fill_up(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """Pads with `EMPTY` to the size of a batch."""
    return np.pad(rows, (0, batch_size - len(rows)), constant_values=EMPTY)


@functools.lru_cache(maxsize=4)
def _permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


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
        epoch = step // _num_batches(num, size - empty)

        def load(index: int) -> tuple[np.ndarray, int]:
            rng = np.random.default_rng((self.seed, epoch, index))
            image, label = self.source.load(index, rng)
            return augment(image, self.config, rng), label

        return _batch(load, rows_of_step(num, size, self.seed, step, empty))


def train_batches(
    source: Source, config: DataConfig, seed: int
) -> grain.DatasetIterator[Batch]:
    """Yields batches without end."""
    options = grain.ReadOptions(config.num_threads, 2 * config.num_threads)
    steps = grain.MapDataset.range(ENDLESS)
    batches = steps.map(TrainingBatch(source, config, seed))
    return iter(batches.to_iter_dataset(options))


def batches_of_each_kind(source: Source, config: DataConfig) -> Iterator[Batch]:
    """Yields a full batch and a ragged one, if training has them."""
    num, used = len(source), config.batch_size - config.num_empty
    for kind in ([used] if num >= used else []) + ([num % used] if num % used else []):
        yield _plain_batch(source, np.arange(kind), config.batch_size)


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """All examples once, in order, without augmentation; read again in each pass."""

    source: Source
    batch_size: int

    def __iter__(self) -> Iterator[Batch]:
        num, size = len(self.source), self.batch_size
        for start in range(0, num, size):
            rows = np.arange(start, min(start + size, num))
            yield _plain_batch(self.source, rows, size)


def _plain_batch(source: Source, rows: np.ndarray, batch_size: int) -> Batch:
    return _batch(lambda index: source.load(index, None), _fill_up(rows, batch_size))


def _batch(load: Callable[[int], tuple[np.ndarray, int]], rows: np.ndarray) -> Batch:
    """Returns the examples of this process's rows, with zeros in empty rows."""
    is_full = bool(np.all(rows != EMPTY))  # the same in all processes
    share = len(rows) // jax.process_count()
    rows = rows[jax.process_index() * share :][:share]
    mask = rows != EMPTY
    examples = [load(int(row)) for row in rows[mask]]
    shape = (examples[0] if examples else load(0))[0].shape
    image, label = np.zeros((share, *shape), np.float32), np.zeros(share, np.int32)
    if examples:
        image[mask] = [image for image, _ in examples]
        label[mask] = [label for _, label in examples]
    return Batch(image, label, None if is_full else mask)
