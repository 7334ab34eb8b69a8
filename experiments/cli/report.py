# SPDX-License-Identifier: Apache-2.0
"""`report`: the curves of several runs on one page."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console

from experiments.cli.command import Command
from experiments.config.identity import flattened
from experiments.errors import UserError
from experiments.run.folder import CONFIG, METRICS, make_place
from experiments.run.metrics import Record, in_short, read_history, series
from experiments.run.report import (
    Picture,
    Table,
    print_notes,
    print_table,
    write_report,
)

MEASURES = (
    "loss", "accuracy", "test_loss", "test_accuracy", "test_top5_accuracy",
    "average_test_accuracy", "learning_rate", "gradient_norm", "ms_per_step",
    "images_per_second",
)  # fmt: skip
ON_CONSOLE = (
    "loss", "accuracy", "test_loss", "test_accuracy", "ms_per_step",
    "images_per_second",
)  # fmt: skip
"""The measures that fit into 80 columns."""
CAPTION = (
    "Training loss and accuracy are means over the steps since the previous record, by "
    "batch statistics; test loss and accuracy are by running averages."
)


class Shown(NamedTuple):
    """A run as the page shows it."""

    name: str
    config: dict[str, Any]  # by dotted names
    records: list[Record]
    note: str = ""  # what could not be read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Draws the curves of one or several runs on one page."""

    usage = "RUN [RUN ...] [--output FILE]"
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The folders of the runs."""
    output: Path = Path("runs/report.html")
    """The page."""

    def __post_init__(self) -> None:
        """Checks that there is a run."""
        if not self.runs:
            raise ValueError("`report` takes at least one run's folder.")

    def run(self, console: Console, command: str) -> None:
        """Reads the runs, prints the table, and writes the page."""
        runs = [read_run(folder) for folder in self.runs]
        for run in runs:
            if run.note:
                print_notes(console, [run.note])
        make_place(self.output)
        title = f"Runs: {', '.join(run.name for run in runs)}"
        table = write_runs(self.output, runs, title=title, summary="", command=command)
        print_table(console, table)
        console.print(f"Report: {self.output}", soft_wrap=True)


def write_runs(
    path: Path, runs: list[Shown], *, title: str, summary: str, command: str
) -> Table:
    """Writes the page of one or several runs; returns its table for the console."""
    from experiments.run.plots import STYLES, Run, curves

    if len(runs) > len(STYLES):
        raise UserError(f"`report` draws at most {len(STYLES)} runs, got {len(runs)}.")
    drawn = [Run(run.name, run.records) for run in runs]
    write_report(
        path,
        title=title,
        summary=summary,
        table=_table(runs, MEASURES),
        figures=[Picture(curves("", drawn), CAPTION)],
        command=command,
    )
    return _table(runs, ON_CONSOLE)


def read_run(folder: Path) -> Shown:
    """Reads the config and the metrics of a run.

    Raises:
        UserError: the folder holds no run, or one without a line of metrics.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"`{folder}` is not the folder of a run: it has no `{CONFIG}`.")
    path = folder / METRICS
    records, damaged = read_history(path)
    note = f"`{path}` is damaged: {in_short(damaged)}; left out." if damaged else ""
    if not any(record.loss is not None for record in records):
        end = f": {in_short(damaged)}" if damaged else " yet"
        raise UserError(f"`{path}` has no line with a loss{end}.")
    try:
        config = dict(flattened(json.loads((folder / CONFIG).read_text("utf-8"))))
    except (ValueError, AttributeError) as error:
        raise UserError(f"`{folder / CONFIG}` is not a config: {error}.") from error
    return Shown(folder.name, config, records, note)


def _table(runs: list[Shown], measures: Sequence[str]) -> Table:
    """The last value of each measure, and the fields in which the runs differ.

    Measures that no run has are left out.
    """
    differ = [
        field
        for field in runs[0].config
        if field != "name" and len({str(run.config.get(field)) for run in runs}) > 1
    ]
    measures = [m for m in measures if any(series(run.records, m)[1] for run in runs)]
    header = ["run", *differ, "step", *(m.replace("_", " ") for m in measures)]
    rows = [
        [
            run.name,
            *(str(run.config.get(field)) for field in differ),
            str(run.records[-1].step),
            *(_last(run.records, measure) for measure in measures),
        ]
        for run in runs
    ]
    return Table(
        header, rows, "The last value of each measure, and the fields that differ."
    )


def _last(records: list[Record], measure: str) -> str:
    _, values = series(records, measure)
    if not values or not math.isfinite(values[-1]):
        return "-"
    return f"{values[-1]:,.0f}" if values[-1] >= 1000 else f"{values[-1]:.4g}"
