# SPDX-License-Identifier: Apache-2.0
"""The process that is timed: reads a config, writes a line of JSON for each case.

`bench_command.py` starts it, with the memory allocator set the same for all libraries.
"""

import importlib.metadata
import json
import sys
import time

import jax

from experiments.bench_cases import BENCH_CASES, LIBRARIES, make_step
from experiments.config import BenchConfig

WARM_UP = 3
PAUSE = 0.005  # seconds, until the threads of the library before are asleep


def time_in_turn(steps: dict, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each call, the libraries taking turns."""
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds):
        names = list(steps)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            time.sleep(PAUSE)
            start = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def versions() -> dict[str, str]:
    """Of what is timed, where installed."""
    found = {}
    for name in ("jax", "jaxlib", "jaxbn", "flax", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Times every case; the parent ends it by closing the pipe or a signal."""
    fields = json.loads(sys.stdin.readline())
    config = BenchConfig(**{**fields, "shape": tuple(fields["shape"])})
    jax.config.update("jax_num_cpu_devices", max(case.shards for case in BENCH_CASES))
    device = jax.devices()[0].device_kind
    about = {"versions": versions(), "device": device, "num_cases": len(BENCH_CASES)}
    print(json.dumps(about), flush=True)
    for case in BENCH_CASES:
        made = {name: make_step(name, case, config) for name in LIBRARIES}
        steps = {name: step for name, step in made.items() if step is not None}
        seconds = time_in_turn(steps, config.rounds)
        print(json.dumps({"case": case.title, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # the parent, interrupted too, says so
        sys.exit(130)
