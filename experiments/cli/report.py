# SPDX-License-Identifier: Apache-2.0
"""`report`: the curves of several runs on one page."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console

from experiments.cli.command import Command
from experiments.errors import UserError
from experiments.run.folder import CONFIG, METRICS, flattened
from experiments.run.metrics import Record, read_metrics, series
from experiments.run.report import Picture, Table, print_table, write_report

MEASURES = (
    "loss", "accuracy", "test_loss", "test_accuracy", "ms_per_step",
    "images_per_second",
)  # fmt: skip
CAPTION = (
    "Training loss and accuracy are means over the steps since the previous record, by "
    "batch statistics; test loss and accuracy are by running averages."
)


class Shown(NamedTuple):
    """A run as the page shows it."""

    name: str
    config: dict[str, Any]  # by dotted names
    records: list[Record]


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
        self.output.parent.mkdir(parents=True, exist_ok=True)
        title = f"Runs: {', '.join(run.name for run in runs)}"
        table = write_runs(self.output, runs, title=title, summary="", command=command)
        print_table(console, table)
        console.print(f"Report: {self.output}", soft_wrap=True)


def write_runs(
    path: Path, runs: list[Shown], *, title: str, summary: str, command: str
) -> Table:
    """Writes the page of one or several runs, and returns its table."""
    from experiments.run.plots import STYLES, Run, curves

    if len(runs) > len(STYLES):
        raise UserError(f"`report` draws at most {len(STYLES)} runs, got {len(runs)}.")
    table = _table(runs)
    drawn = [Run(run.name, run.records) for run in runs]
    write_report(
        path,
        title=title,
        summary=summary,
        table=table,
        figures=[Picture(curves("", drawn), CAPTION)],
        command=command,
    )
    return table


def read_run(folder: Path) -> Shown:
    """Reads the config and the metrics of a run.

    Raises:
        UserError: the folder holds no run, or one without a line of metrics.
    """
    for name in (CONFIG, METRICS):
        if not (folder / name).is_file():
            raise UserError(
                f"`{folder}` is not the folder of a run: it has no `{name}`."
            )
    records = read_metrics(folder / METRICS)
    if not any(record.loss is not None for record in records):
        raise UserError(f"`{folder / METRICS}` has no line with a loss yet.")
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    return Shown(folder.name, flattened(config), records)


def _table(runs: list[Shown]) -> Table:
    """The last value of each measure, and the fields in which the runs differ."""
    differ = [
        field
        for field in runs[0].config
        if field != "name" and len({str(run.config.get(field)) for run in runs}) > 1
    ]
    header = ["run", *differ, "step", *(m.replace("_", " ") for m in MEASURES)]
    rows = [
        [
            run.name,
            *(str(run.config.get(field)) for field in differ),
            str(run.records[-1].step),
            *(_last(run.records, measure) for measure in MEASURES),
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
