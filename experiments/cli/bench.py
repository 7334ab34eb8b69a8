# SPDX-License-Identifier: Apache-2.0
"""`bench`: times the same work in each library, prints medians and ratios."""

import dataclasses
import json
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from experiments.bench.timing import LIBRARIES
from experiments.cli.command import ConfigCommand, child
from experiments.config import LAB_DENSE, BenchConfig
from experiments.config.loading import load
from experiments.errors import UserError
from experiments.run import interrupts
from experiments.run.folder import make_folder, write_atomically
from experiments.run.progress import ProgressBar
from experiments.run.provenance import in_words
from experiments.run.report import Table, print_table

# Otherwise glibc returns large buffers to the system and faults them in again at each
# step, which takes longer than the arithmetic. The same for all libraries.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_ARENA_MAX": "1",
}
RESULTS = "bench.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench(ConfigCommand):
    """Times a layer, a network or whole runs with jaxbn and its peers, in turn."""

    usage = "CONFIG [--workdir DIR] [--FIELD VALUE ...]"
    config: Annotated[BenchConfig, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """The folder of the results, which replace earlier ones; runs/NAME unless given."""

    @classmethod
    def of(cls, path: Path) -> "Bench":
        """Loads the config."""
        return cls(config=load(path, BenchConfig))

    def run(self, console: Console, command: str) -> None:
        """Times every case, shows the table, and writes `bench.json`."""
        path = (self.workdir or Path("runs") / self.config.name) / RESULTS
        make_folder(path.parent)
        answers = _run_worker(self.config)
        results = {
            "config": dataclasses.asdict(self.config),
            "allocator": allocator(self.config),
            **next(answers),
            "cases": {},
        }
        num_cases = results["num_cases"]

        def show() -> None:
            if results["cases"]:
                print_table(console, _table(results))
                console.print(f"Results: {path}", soft_wrap=True)

        def kept(word: str) -> None:
            done = len(results["cases"])
            console.print(f"{word} after {done} of {num_cases} cases.")
            show()

        interrupts.at_end(kept)
        try:
            with ProgressBar(console, num_cases, "Timing") as bar:
                for answer in answers:
                    with interrupts.shield:
                        results["cases"][answer["case"]] = answer["seconds"]
                        for name in ("memory", "accuracy"):
                            results[name] = answer.get(name, {})
                        write_atomically(path, json.dumps(results, indent=1) + "\n")
                    bar.update(advance=1)
                    bar.line(_line(answer))
        finally:
            show()


def _run_worker(config: BenchConfig) -> Iterator[dict[str, Any]]:
    """Yields the answers of the timed process, line by line."""
    command, environment = child("experiments.bench.worker")
    with interrupts.Child(
        command,
        env=environment | allocator(config),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the terminal's Ctrl-C is for the parent
    ) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(json.dumps(dataclasses.asdict(config)) + "\n")
        worker.stdin.close()
        for line in worker.stdout:
            answer = json.loads(line)
            if "error" in answer:
                raise UserError(answer["error"])
            yield answer
        if worker.wait() != 0:
            raise UserError(
                f"The timed process ended with status {worker.returncode}; its own "
                "messages are above."
            )


def allocator(config: BenchConfig) -> dict[str, str]:
    """Returns the settings; none for whole runs, whose threads would share an arena."""
    return {} if config.network == "lab" else ALLOCATOR


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Returns the median time of each library, in milliseconds."""
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Returns each library's time as a multiple of jaxbn's: the median over rounds.

    Both times are of one round, so that a slow moment of the machine meets both.
    """
    ours = seconds["jaxbn"]
    return {
        name: statistics.median(t / o for t, o in zip(times, ours, strict=True))
        for name, times in seconds.items()
    }


def _line(answer: dict[str, Any]) -> str:
    times = ", ".join(f"{k} {v:.2f} ms" for k, v in medians(answer["seconds"]).items())
    return f"{answer['case']}: {times}"


def _table(results: dict[str, Any]) -> Table:
    """Returns a row for each case, or where there is one case, for each library."""
    config = results["config"]
    shape = " x ".join(map(str, config["shape"]))
    if config["network"] in ("layer", "tracing"):
        what = f"A training step of one layer, {shape}"
        what = "Before a program runs" if config["network"] == "tracing" else what
        title = f"{what}, median ms"
        header = ["case", *LIBRARIES, "flax / jaxbn", "torch / jaxbn"]
        rows = [_layer_cells(*case) for case in results["cases"].items()]
    elif config["network"] == "lab":
        steps, size = LAB_DENSE.train.total_steps, LAB_DENSE.data.batch_size
        title = f"{config['num_runs']} training runs of {steps} steps, batch {size}"
        header = ["library", "seconds", "runs a minute", "time / jaxbn's"]
        rows = [
            [
                name,
                f"{ms / 1e3:.1f}",
                f"{6e4 * config['num_runs'] / ms:.0f}",
                f"{r:.2f}",
            ]
            for name, ms, r in _by_library(results)
        ]
    else:
        step = "A training step" if config["step"] == "training" else "Inference"
        title = f"{step} of {config['network']}, {shape}"
        header = ["norm", "ms", "images/s", "time / jaxbn's", "memory, MB"]
        memory = {name: size / 1e6 for name, size in results["memory"].items()}
        images = 1e3 * config["shape"][0]
        rows = [
            [name, f"{ms:.1f}", f"{images / ms:.1f}", f"{r:.3f}", f"{memory[name]:.0f}"]
            for name, ms, r in _by_library(results)
        ]
    note = (
        f"{in_words(results)}; {config['rounds']} rounds in turn; a ratio above 1: "
        "jaxbn is faster."
    )
    return Table(header, rows, note, title)


def _layer_cells(case: str, seconds: dict[str, list[float]]) -> list[str]:
    times, over = medians(seconds), ratios(seconds)
    cells = [f"{times[n]:.2f}" if n in times else "-" for n in LIBRARIES]
    return [
        case,
        *cells,
        *(f"{over[n]:.2f}" if n in over else "-" for n in LIBRARIES[1:]),
    ]


def _by_library(results: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Yields name, median ms and ratio of each library in the only case."""
    (seconds,) = results["cases"].values()
    over = ratios(seconds)
    for name, ms in medians(seconds).items():
        yield name, ms, over[name]
