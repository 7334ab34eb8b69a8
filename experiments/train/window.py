# SPDX-License-Identifier: Apache-2.0
"""The training metrics of the steps since the last line."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from experiments.train.steps import Scores


class Window:
    """Scores of steps, and how long they took."""

    def __init__(self, values: Sequence[Sequence[float]] = ()):
        """Goes on from values that a checkpoint kept."""
        self._scores = [Scores(*map(jnp.float32, v)) for v in values]
        self._seconds = self._waited = 0.0
        self._timed = 0

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Measures one step, without its wait for data."""
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start
        self._timed += 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measures how long a step has to wait for its data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def add(self, scores: Scores, *, wait: bool) -> None:
        """Adds those of a step; waits for the device where asked."""
        if wait:
            jax.block_until_ready(scores)
        self._scores.append(scores)

    def values(self) -> list[list[float]]:
        """Returns loss, accuracy and count of each step, as numbers."""
        return [[float(v) for v in scores] for scores in self._scores]

    def first_not_finite(self) -> int | None:
        """Returns how many steps ago the loss began not to be finite."""
        values = self.values()
        for number, (loss, *_) in enumerate(values):
            if not math.isfinite(loss):
                return len(values) - 1 - number
        return None

    def close(self) -> dict[str, float]:
        """Returns means over the examples and the time of a step; begins anew."""
        values = self.values()
        total = sum(count for *_, count in values)
        seconds, timed = self._seconds, max(1, self._timed)
        whole = seconds + self._waited
        fields = {
            "loss": sum(loss * count for loss, _, count in values) / total,
            "accuracy": sum(right * count for _, right, count in values) / total,
            "ms_per_step": 1e3 * seconds / timed,
            "images_per_second": total / len(values) * timed / whole,
            "data_wait": self._waited / whole,
        }
        self.__init__()
        return fields
