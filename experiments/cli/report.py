# SPDX-License-Identifier: Apache-2.0
"""`report`: the curves of one or several runs, side by side on one page."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from experiments.errors import UserError
from experiments.run.folder import CONFIG, METRICS
from experiments.run.metrics import Record, read_metrics, series
from experiments.run.plots import STYLES, Run, curves
from experiments.run.report import Picture, Table, print_table, write_report

MEASURES = ("loss", "accuracy", "test_loss", "test_accuracy", "images_per_second")


class Shown(NamedTuple):
    """A run as the page shows it."""

    name: str
    config: dict[str, Any]  # flat
    records: list[Record]


def report(
    console: Console, folders: Sequence[Path], output: Path, command: str
) -> None:
    """Reads the runs, prints the table, and writes the page."""
    runs = [read_run(folder) for folder in folders]
    if len(runs) > len(STYLES):
        raise UserError(f"`report` draws at most {len(STYLES)} runs, got {len(runs)}.")
    table = _table(runs)
    print_table(console, table)
    drawn = [Run(run.name, run.records) for run in runs]
    names = ", ".join(run.name for run in runs)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_report(
        output,
        title=f"Runs: {names}",
        summary="Training loss is the mean of the steps since the point before, by "
        "batch statistics; test accuracy is by running averages.",
        table=table,
        figures=[Picture(curves("", drawn), "")],
        command=command,
    )
    console.print(f"Report: {output}", soft_wrap=True)


def read_run(folder: Path) -> Shown:
    """Reads what a run has left.

    Raises:
        UserError: the folder holds no run, or one without a line of metrics.
    """
    for name in (CONFIG, METRICS):
        if not (folder / name).is_file():
            raise UserError(f"`{folder}` is not the folder of a run: no `{name}`.")
    records = read_metrics(folder / METRICS)
    if not any(record.loss is not None for record in records):
        raise UserError(f"`{folder / METRICS}` has no line with a loss yet.")
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    return Shown(folder.name, dict(_flat(config)), records)


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _table(runs: list[Shown]) -> Table:
    """The last of each measure, and the fields in which the runs differ."""
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
    return Table(header, rows, "The last of each, and the fields that differ.")


def _last(records: list[Record], measure: str) -> str:
    _, values = series(records, measure)
    if not values or not math.isfinite(values[-1]):
        return "-"
    return f"{values[-1]:,.0f}" if values[-1] >= 1000 else f"{values[-1]:.4g}"
