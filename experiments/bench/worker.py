# SPDX-License-Identifier: Apache-2.0
"""The process that is timed: reads a config, writes a line of JSON for each case.

`bench_command.py` starts it, with the memory allocator set the same for all libraries.
"""

import importlib.metadata
import json
import sys
import time

import jax

from experiments.bench.cases import BENCH_CASES, LIBRARIES, make_step
from experiments.bench.runs import time_runs
from experiments.config import BenchConfig

LAB = "lab"
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


def time_network(config: BenchConfig) -> None:
    """Times the training step of a network with each library's norm."""
    from experiments.bench.network import TITLE, make_network_step

    made = {name: make_network_step(name, config) for name in LIBRARIES}
    steps = {name: step for name, step in made.items() if step is not None}
    runs = {name: step.run for name, step in steps.items()}
    answer = {
        "case": TITLE,
        "seconds": time_in_turn(runs, config.rounds),
        "memory": {name: step.memory for name, step in steps.items()},
    }
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Times every case; the parent ends it by closing the pipe or a signal."""
    fields = json.loads(sys.stdin.readline())
    config = BenchConfig(**{**fields, "shape": tuple(fields["shape"])})
    jax.config.update("jax_num_cpu_devices", max(case.shards for case in BENCH_CASES))
    device = jax.devices()[0].device_kind
    layer = config.network == "layer"
    num_cases = len(BENCH_CASES) if layer else 1
    about = {"versions": versions(), "device": device, "num_cases": num_cases}
    print(json.dumps(about), flush=True)
    if config.network == LAB:
        print(json.dumps(time_runs(config)), flush=True)
        return
    if not layer:
        time_network(config)
        return
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
