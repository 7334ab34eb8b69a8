# SPDX-License-Identifier: Apache-2.0
"""`bench`: times one layer in each library, in turn, and prints medians and ratios."""

import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.bench.runs import describe, runs_a_minute
from experiments.config import BenchConfig
from experiments.errors import UserError

# glibc would give large buffers back to the system and fault them in anew each step,
# which costs more than the arithmetic and hides it. The same for all libraries.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_ARENA_MAX": "1",
}
RESULTS = "bench.json"


def bench(console: Console, config: BenchConfig, workdir: Path) -> None:
    """Times every case, shows the table, and leaves `bench.json` in the folder."""
    workdir.mkdir(parents=True, exist_ok=True)
    answers = _run_worker(config)
    results = {
        "config": dataclasses.asdict(config),
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()}-core {platform.machine()}",
        "python": platform.python_version(),
        "allocator": allocator(config),
        **next(answers),
        "cases": {},
    }
    num_cases = results["num_cases"]
    rows = track(answers, "Timing", num_cases, console=console, transient=True)
    try:
        for answer in rows:
            results["cases"][answer["case"]] = answer["seconds"]
            for name in ("memory", "accuracy"):
                results[name] = answer.get(name, {})
            text = json.dumps(results, indent=1) + "\n"
            (workdir / RESULTS).write_text(text, "utf-8")
            if not console.is_terminal:
                console.print(_line(answer), soft_wrap=True)
    except KeyboardInterrupt:
        done = len(results["cases"])
        console.print(f"Interrupted after {done} of {num_cases} cases.")
        raise
    finally:
        if results["cases"]:
            tables = {"layer": _table, "lab": _runs_table}
            console.print(tables.get(config.network, _network_table)(results))
            console.print(_provenance(results), soft_wrap=True)
            console.print(f"Results: {workdir / RESULTS}", soft_wrap=True)


def _run_worker(config: BenchConfig) -> Iterator[dict]:
    """Yields what the timed process says, line by line."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "experiments.bench.worker"],
        env={**os.environ, **allocator(config)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdin.write(json.dumps(dataclasses.asdict(config)) + "\n")
        worker.stdin.close()
        for line in worker.stdout:
            yield json.loads(line)
        if worker.wait() != 0:
            raise UserError(
                f"the timed process ended with status {worker.returncode}; what it "
                "said is above."
            )
    finally:
        worker.kill()
        worker.wait()


def allocator(config: BenchConfig) -> dict[str, str]:
    """The settings; none for whole runs, whose threads would share the one arena."""
    return {} if config.network == "lab" else ALLOCATOR


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """In milliseconds."""
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """The time of each library as a multiple of jaxbn's: the median over the rounds.

    Of one round, so that a slow moment of the machine meets them all.
    """
    ours = seconds["jaxbn"]
    return {
        name: statistics.median(t / o for t, o in zip(times, ours, strict=True))
        for name, times in seconds.items()
        if name != "jaxbn"
    }


def _line(answer: dict) -> str:
    times = ", ".join(f"{k} {v:.2f} ms" for k, v in medians(answer["seconds"]).items())
    return f"{answer['case']}: {times}"


def _table(results: dict) -> Table:
    names = ("jaxbn", "flax", "torch")
    shape = " x ".join(map(str, results["config"]["shape"]))
    table = Table(title=f"A training step of one layer, {shape}, median ms")
    for heading in ("case", *names, "flax / jaxbn", "torch / jaxbn"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for title, seconds in results["cases"].items():
        times, over = medians(seconds), ratios(seconds)
        cells = [f"{times[n]:.2f}" if n in times else "-" for n in names]
        cells += [f"{over[n]:.2f}" if n in over else "-" for n in names[1:]]
        table.add_row(title, *cells)
    return table


def _network_table(results: dict) -> Table:
    """Images a second, the ratio of the rounds, and memory, by library."""
    config = results["config"]
    shape = " x ".join(map(str, config["shape"]))
    table = Table(title=f"A training step of {config['network']}, {shape}")
    for heading in ("norm", "ms", "images/s", "time / jaxbn's", "memory, MB"):
        table.add_column(heading, justify="left" if heading == "norm" else "right")
    ((_, seconds),) = results["cases"].items()
    times, over = medians(seconds), ratios(seconds) | {"jaxbn": 1.0}
    for name, time in times.items():
        images = 1e3 * config["shape"][0] / time
        memory = results["memory"][name] / 1e6
        cells = f"{time:.1f}", f"{images:.1f}", f"{over[name]:.3f}", f"{memory:.0f}"
        table.add_row(name, *cells)
    return table


def _runs_table(results: dict) -> Table:
    """Training runs a minute, and how often as many as in PyTorch."""
    num = results["config"]["num_runs"]
    table = Table(title=describe(results["config"]))
    for heading in ("library", "seconds", "runs a minute", "time / jaxbn's"):
        table.add_column(heading, justify="left" if heading == "library" else "right")
    ((_, seconds),) = results["cases"].items()
    over = ratios(seconds) | {"jaxbn": 1.0}
    for name, times in seconds.items():
        time, rate = statistics.median(times), runs_a_minute(num, times)
        table.add_row(name, f"{time:.1f}", f"{rate:.0f}", f"{over[name]:.2f}")
    return table


def _provenance(results: dict) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    return (
        f"({results['date']}, {results['machine']}, {results['device']}, Python "
        f"{results['python']}, {versions}; {results['config']['rounds']} rounds in "
        "turn; a ratio above 1: jaxbn is faster.)"
    )
