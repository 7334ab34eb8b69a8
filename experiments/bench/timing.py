# SPDX-License-Identifier: Apache-2.0
"""Functions of several libraries that do the same, timed in turn."""

import importlib.util
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

LIBRARIES = ("jaxbn", "flax", "torch")
PAUSE = 0.005  # seconds, until the threads of the library before are asleep


class Benchmark(NamedTuple):
    """The same work in each library that can do it."""

    title: str
    calls: Mapping[str, Callable[[], Any]]
    """By library; what is timed."""
    more: Mapping[str, Mapping[str, float]] = {}
    """Other measures, each by library, known once all calls are timed."""
    warm_up: int = 3
    """Calls before the timed ones."""


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def time_in_turn(benchmark: Benchmark, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each call; each round starts with another library."""
    names = list(benchmark.calls)
    for call in benchmark.calls.values():
        for _ in range(benchmark.warm_up):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE)
            start = time.perf_counter()
            benchmark.calls[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds
