# SPDX-License-Identifier: Apache-2.0
"""The process that is timed: reads a config, writes a line of JSON for each benchmark.

`experiments.cli.bench` starts it, with the same memory allocator for all libraries.
"""

import json
import sys
from collections.abc import Iterator

from experiments.run import interrupts

if __name__ == "__main__":
    interrupts.watch(lambda word: None)  # the parent reports it

import jax

from experiments.bench import layer, network, runs, tracing
from experiments.bench.timing import Benchmark, time_in_turn
from experiments.config import BenchConfig
from experiments.errors import UserError, shortage
from experiments.run.provenance import provenance


def benchmarks(config: BenchConfig) -> Iterator[Benchmark]:
    """Yields what the config asks for; each is set up when its turn comes."""
    match config.network:
        case "layer":
            yield from layer.benchmarks(config)
        case "tracing":
            yield from tracing.benchmarks(config)
        case "lab":
            yield from runs.benchmarks(config)
        case _ if config.step == "inference":
            yield network.inference_benchmark(config)
        case _:
            yield network.benchmark(config)


def main() -> None:
    """Times every benchmark; the parent ends it by closing the pipe or a signal."""
    fields = json.loads(sys.stdin.readline())
    config = BenchConfig(**{**fields, "shape": tuple(fields["shape"])})
    jax.config.update("jax_num_cpu_devices", max(case.shards for case in layer.CASES))
    several = {"layer": len(layer.CASES), "tracing": tracing.NUM_CASES}
    num_cases = several.get(config.network, 1)
    print(json.dumps({**provenance(), "num_cases": num_cases}), flush=True)
    try:
        for benchmark in benchmarks(config):
            seconds = time_in_turn(benchmark, config.rounds)
            answer = {"case": benchmark.title, "seconds": seconds, **benchmark.more}
            print(json.dumps(answer), flush=True)
    except Exception as error:
        shown = error if isinstance(error, UserError) else shortage(error)
        if shown is None:
            raise
        print(json.dumps({"error": str(shown)}), flush=True)


if __name__ == "__main__":
    main()
