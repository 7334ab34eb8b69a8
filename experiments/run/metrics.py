# SPDX-License-Identifier: Apache-2.0
"""Metrics on disk: `metrics.jsonl`, one JSON object a line, each with `step`."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.run.folder import METRICS, write_atomically

DAMAGED = "metrics.damaged.jsonl"


class Record(NamedTuple):
    """The measures of one step; those that were not taken are None and left out."""

    step: int
    loss: float | None = None
    accuracy: float | None = None
    ms_per_step: float | None = None
    images_per_second: float | None = None
    data_wait: float | None = None  # fraction of the time in which steps wait for data
    gradient_norm: float | None = None  # mean over the steps, before clipping
    learning_rate: float | None = None  # of the last step
    test_loss: float | None = None
    test_accuracy: float | None = None
    test_top5_accuracy: float | None = None
    average_test_loss: float | None = None
    average_test_accuracy: float | None = None
    average_test_top5_accuracy: float | None = None


def to_json(fields: dict[str, Any]) -> str:
    """Returns the fields as JSON; NaN and infinities, which JSON lacks, become null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }
    return json.dumps(finite)


def to_line(record: Record) -> str:
    """Returns the line of a record, without the measures that were not taken."""
    return to_json({k: v for k, v in record._asdict().items() if v is not None})


def record(
    folder: Path, records: Iterable[Record], show: Callable[[Record], object]
) -> list[Record]:
    """Appends each record to the run's metrics as it comes, shows it, returns all."""
    written = []
    for one in records:
        append(folder / METRICS, one)
        show(one)
        written.append(one)
    return written


def append(path: Path, record: Record) -> None:
    """Writes the line of a record; no empty file is left where there is no room."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(to_line(record) + "\n")
    except OSError as error:
        if path.exists() and path.stat().st_size == 0:
            path.unlink()
        error.filename = str(path)  # which an error of writing lacks
        raise


class History(NamedTuple):
    """The records that can be read, and what is wrong with the other lines."""

    records: list[Record]
    damaged: list[str]


def read_history(path: Path) -> History:
    """Reads the records back; null becomes NaN.

    A last line without an end was cut short by a kill, and is passed over. A line that
    is not a record, or whose step does not come after that of the line before, is
    damaged.
    """
    found = History([], [])
    if not path.exists():
        return found
    text = path.read_text("utf-8", errors="replace")
    for number, line in enumerate(text.split("\n")[:-1], 1):
        one = _parse(line)
        if one is None:
            found.damaged.append(f"line {number} is not a record")
        elif found.records and one.step <= found.records[-1].step:
            found.damaged.append(f"line {number} repeats step {one.step}")
        else:
            found.records.append(one)
    return found


def _parse(line: str) -> Record | None:
    """Returns the record of a line, or None if it has none."""
    try:
        fields = json.loads(line)
        step = fields.pop("step")
        values = {k: math.nan if v is None else v for k, v in fields.items()}
        one = Record(step, **values)
    except (ValueError, AttributeError, KeyError, TypeError):
        return None
    numbers = all(type(value) in (int, float) for value in values.values())
    return one if type(step) is int and step > 0 and numbers else None


def in_short(damaged: list[str]) -> str:
    """Returns the first of what is damaged, and how much more is."""
    more = len(damaged) - 1
    return damaged[0] + (f", and {more} more" if more else "")


def read_metrics(path: Path) -> list[Record]:
    """Returns the records that can be read."""
    return read_history(path).records


def resume_metrics(folder: Path, step: int, num_records: int) -> list[str]:
    """Makes the metrics those of a run that resumes after `step`.

    The lines of later steps are removed. Damaged lines are too, and the file that has
    them is kept under another name.

    Args:
        folder: the run's.
        step: of the checkpoint.
        num_records: the records that the run had made by then.

    Returns:
        What is damaged or lost, in sentences.
    """
    path, notes = folder / METRICS, []
    records, damaged = read_history(path)
    kept = [one for one in records if one.step <= step]
    if damaged:
        path.replace(folder / DAMAGED)
        notes.append(
            f"`{path}` is damaged: {in_short(damaged)}. It is kept as `{DAMAGED}`; its "
            "other lines are used."
        )
    if len(kept) < num_records:
        notes.append(
            f"`{path}` has {len(kept)} of the {num_records} records up to step {step}; "
            "the others are lost, and the curves lack them."
        )
    write_atomically(path, "".join(to_line(one) + "\n" for one in kept))
    return notes


def series(records: Iterable[Record], name: str) -> tuple[list[int], list[float]]:
    """Returns the steps at which a field was recorded, and its values."""
    points = [(r.step, getattr(r, name)) for r in records]
    points = [(step, value) for step, value in points if value is not None]
    return [step for step, _ in points], [value for _, value in points]


def steps_to_reach(records: Iterable[Record], accuracy: float) -> int | None:
    """Returns the first step evaluated at this test accuracy or better."""
    steps, values = series(records, "test_accuracy")
    return next((s for s, v in zip(steps, values, strict=True) if v >= accuracy), None)
