# SPDX-License-Identifier: Apache-2.0
"""`demo`: two networks on real digits, each with and without batch norm."""

import dataclasses
import functools
import statistics
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from experiments.cli.command import PROGRAM, Command
from experiments.config import ExperimentConfig, changed
from experiments.config.loading import SHIPPED, load
from experiments.run import interrupts
from experiments.run.folder import REPORT, open_run_folder
from experiments.run.metrics import Record, record, series, steps_to_reach
from experiments.run.progress import ProgressBar, RunProgress
from experiments.run.report import (
    Picture,
    Table,
    print_table,
    write_figures,
    write_report,
)

CONFIGS = {
    "dense": SHIPPED / "digits_dense.py",
    "convolutional": SHIPPED / "digits_conv.py",
}
NORMS = {"batch": "with batch norm", "none": "without"}
SEEDS = (0, 1, 2)
TARGET = 0.95
NOTE = (
    f"Means over {len(SEEDS)} seeds (± standard deviation): accuracy on the held-out "
    "fifth after the last step, by running averages; the first evaluated step at 95 %; "
    "and the median time of a training step. Seeds, data order and learning rate are "
    "the same with and without."
)
CAPTION = (
    "thin lines are seeds, thick lines their means. The training loss is the mean "
    "since the previous point, by batch statistics; the test accuracy is by running "
    "averages."
)

NEXT_STEPS = (
    (
        "Train a network with another setting; any field of its config can be changed.",
        f"{PROGRAM} train digits_conv --optimizer.learning-rate 0.5",
    ),
    (
        "Ask what is wrong with its batch norms, layer by layer.",
        f"{PROGRAM} diagnose runs/digits_conv",
    ),
    (
        "Put a claim to the test: batch norm allows higher learning rates.",
        f"{PROGRAM} study learning_rate",
    ),
)


class Outcome(NamedTuple):
    """The runs of one network with one norm, one for each seed."""

    network: str
    norm: str
    runs: list[list[Record]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Trains two networks on handwritten digits, with and without batch norm.

    Prints a table and writes a report.
    """

    usage = "[--workdir DIR]"
    workdir: Path = Path("runs/demo")
    """The folder of the report and of the runs' folders; runs of an earlier demo in it
    are replaced."""

    def run(self, console: Console, command: str) -> None:
        """Trains every network, prints the table and writes the report."""
        from experiments.run.plots import Run, curves

        workdir = self.workdir
        outcomes = _train_all(console, workdir)
        table = make_table(outcomes)
        print_table(console, table)
        pictures = []
        for network in CONFIGS:
            own = [outcome for outcome in outcomes if outcome.network == network]
            runs = [Run(outcome.norm, run) for outcome in own for run in outcome.runs]
            svg = curves(f"{network} network", runs)
            picture = Picture(svg, f"The {network} network: {CAPTION}")
            write_figures(workdir, network, [picture])
            pictures.append(picture)
        write_report(
            workdir / REPORT,
            title="Handwritten digits, with and without batch norm",
            summary="scikit-learn's 1,797 scans of handwritten digits; a stratified "
            "fifth is held out. Two networks, each trained with jaxbn.linen.BatchNorm "
            "before each ReLU and without, with the same seeds, data order and "
            "learning rate.",
            table=table,
            figures=pictures,
            command=command,
            next_steps=NEXT_STEPS,
        )
        console.print(f"Report: {workdir / REPORT}", soft_wrap=True)
        console.print("Next:", *(f"  {command}" for _, command in NEXT_STEPS), sep="\n")


def _train_all(console: Console, workdir: Path) -> list[Outcome]:
    """Trains every network with every norm and seed, each in its folder."""
    from experiments.train.loop import train

    bases = {network: load(path, ExperimentConfig) for network, path in CONFIGS.items()}
    per_base = len(NORMS) * len(SEEDS)
    total = per_base * sum(base.train.total_steps for base in bases.values())
    outcomes, done = [], 0
    interrupts.at_end(functools.partial(_kept, console, workdir))
    with ProgressBar(console, total) as bar:
        for network, base in bases.items():
            for kind, label in NORMS.items():
                outcomes.append(Outcome(network, label, []))
                for seed in SEEDS:
                    config = dataclasses.replace(
                        changed(base, {"norm.kind": kind}),
                        name=f"{base.name}_{kind}_seed{seed}",
                        seed=seed,
                    )
                    folder = workdir / config.name
                    title = f"{network} {label}, seed {seed}"
                    bar.update(f"{title}: compiling")
                    bar.line(f"{title}: compiling")
                    show = RunProgress(bar, title, line_every=200, finished=done)
                    with open_run_folder(folder, config, overwrite=True) as held:
                        records = train(config, begin=lambda _, held=held: held.claim())
                        outcomes[-1].runs.append(record(folder, records, show))
                    done += config.train.total_steps
    return outcomes


def _kept(console: Console, workdir: Path, word: str) -> None:
    console.print(
        f"{word}. The runs that began are in {workdir}, each with its config.json and "
        "metrics.jsonl; the next demo starts from the beginning.",
        soft_wrap=True,
    )


def make_table(outcomes: list[Outcome]) -> Table:
    """Returns test accuracy, steps to 95 % and ms a step, a row for each outcome."""
    header = ["network", "norm", "test accuracy", "steps to 95 %", "ms a step"]
    return Table(header, [_row(outcome) for outcome in outcomes], NOTE)


def _row(outcome: Outcome) -> list[str]:
    accuracies = [100 * series(run, "test_accuracy")[1][-1] for run in outcome.runs]
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    reached = [steps_to_reach(run, TARGET) for run in outcome.runs]
    steps = [step for step in reached if step is not None]
    times = [ms for run in outcome.runs for ms in series(run, "ms_per_step")[1]]
    return [
        outcome.network,
        outcome.norm,
        f"{statistics.mean(accuracies):.2f} % ± {spread:.2f}",
        f"{statistics.mean(steps):.0f}" if len(steps) == len(reached) else "not by all",
        f"{statistics.median(times):.2f}",
    ]
