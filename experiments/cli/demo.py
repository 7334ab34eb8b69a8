# SPDX-License-Identifier: Apache-2.0
"""The demo: two networks on real digits, each with and without batch norm."""

import dataclasses
import statistics
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from experiments.config import ExperimentConfig
from experiments.config.loading import load
from experiments.run.folder import REPORT, open_run_folder, record
from experiments.run.metrics import Record, series, steps_to_reach
from experiments.run.plots import Run, curves
from experiments.run.progress import RunProgress
from experiments.run.report import Picture, Table, print_table, write_report
from experiments.train.loop import train

CONFIGS = {
    "dense": "configs/digits_dense.py",
    "convolutional": "configs/digits_conv.py",
}
NORMS = {"batch": "with batch norm", "none": "without"}
SEEDS = (0, 1, 2)
TARGET = 0.95
NOTE = (
    f"Means over {len(SEEDS)} seeds (± standard deviation): accuracy on the held-out "
    "fifth after the last step, by running averages; the first evaluated step at 95 %; "
    "and the median time of a training step. With and without share seeds, data order "
    "and learning rate."
)


class Outcome(NamedTuple):
    """The runs of one network with one norm, one for each seed."""

    network: str
    norm: str
    runs: list[list[Record]]


def demo(console: Console, workdir: Path) -> None:
    """Trains all of it, prints the table and writes the report."""
    outcomes = _train_all(console, workdir)
    table = make_table(outcomes)
    print_table(console, table)
    pictures = {network: _picture(network, outcomes) for network in CONFIGS}
    for network, picture in pictures.items():
        (workdir / f"{network}.svg").write_text(picture.svg, "utf-8")
    write_report(
        workdir / REPORT,
        title="Handwritten digits, with and without batch norm",
        summary="scikit-learn's 1,797 scans of handwritten digits; a stratified fifth "
        "is held out. Two networks, each trained with jaxbn.linen.BatchNorm before "
        "each ReLU and without, by the same seeds, data order and learning rate.",
        table=table,
        figures=list(pictures.values()),
        command="make demo",
    )
    console.print(f"Report: {workdir / REPORT}", soft_wrap=True)


def _train_all(console: Console, workdir: Path) -> list[Outcome]:
    """Trains every network with every norm and seed, each in its folder."""
    bases = {
        network: load(Path(path), ExperimentConfig) for network, path in CONFIGS.items()
    }
    per_base = len(NORMS) * len(SEEDS)
    total = per_base * sum(base.train.num_steps for base in bases.values())
    outcomes, done = [], 0
    with RunProgress(console, total, line_every=200) as progress:
        for network, base in bases.items():
            for kind, label in NORMS.items():
                outcomes.append(Outcome(network, label, []))
                for seed in SEEDS:
                    config = _variant(base, kind, seed)
                    folder = workdir / config.name
                    open_run_folder(folder, config, overwrite=True)
                    progress.start_run(f"{network} {label}, seed {seed}", finished=done)
                    outcomes[-1].runs.append(
                        record(folder, train(config), progress.show)
                    )
                    done += config.train.num_steps
    return outcomes


def _variant(base: ExperimentConfig, kind: str, seed: int) -> ExperimentConfig:
    """The config with another norm and seed, named after them."""
    return dataclasses.replace(
        base,
        name=f"{base.name}_{kind}_seed{seed}",
        seed=seed,
        norm=dataclasses.replace(base.norm, kind=kind),
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


def _picture(network: str, outcomes: list[Outcome]) -> Picture:
    """The curves of one network."""
    runs = [
        Run(outcome.norm, records)
        for outcome in outcomes
        if outcome.network == network
        for records in outcome.runs
    ]
    caption = (
        f"The {network} network: thin, each seed; thick, the mean. The training loss "
        "is the mean since the last point, by batch statistics; the test accuracy is "
        "by running averages."
    )
    return Picture(curves(f"{network} network", runs), caption)
