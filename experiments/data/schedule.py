# SPDX-License-Identifier: Apache-2.0
"""Which examples are in which batch: a function of seed and step alone.

So that any number of processes, begun at any step, agree on it.
"""

import functools
import math

import numpy as np

NOTHING = -1
"""In the last batch of an epoch, a row without an example."""


def rows_of_step(
    num_examples: int, batch_size: int, seed: int, step: int, num_empty: int = 0
) -> np.ndarray:
    """Returns the indices of the batch of a step, which counts from 0.

    One shuffled epoch follows the other. In each, every example comes once; the last
    batch is filled up with `NOTHING`, and so are the last `num_empty` rows of each.
    """
    used = batch_size - num_empty
    epoch, place = divmod(step, num_batches(num_examples, used))
    rows = _permutation(num_examples, seed, epoch)
    return fill_up(rows[place * used : (place + 1) * used], batch_size)


def epoch_of_step(
    num_examples: int, batch_size: int, step: int, num_empty: int = 0
) -> int:
    """Returns the epoch that the step is in, from 0."""
    return step // num_batches(num_examples, batch_size - num_empty)


def num_batches(num_examples: int, batch_size: int) -> int:
    """Returns how many batches an epoch has."""
    return math.ceil(num_examples / batch_size)


def fill_up(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """Adds `NOTHING` up to the size of a batch."""
    return np.pad(rows, (0, batch_size - len(rows)), constant_values=NOTHING)


@functools.lru_cache(maxsize=4)
def _permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_examples)
