# SPDX-License-Identifier: Apache-2.0
"""Metrics on disk: `metrics.jsonl`, one JSON object a line, each with `step`."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.run.folder import METRICS, write_atomically


class Record(NamedTuple):
    """The measures of one step; those that were not taken are None and left out."""

    step: int
    loss: float | None = None
    accuracy: float | None = None
    ms_per_step: float | None = None
    images_per_second: float | None = None
    data_wait: float | None = None  # fraction of the time in which steps wait for data
    test_loss: float | None = None
    test_accuracy: float | None = None
    average_test_loss: float | None = None
    average_test_accuracy: float | None = None


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
    with (folder / METRICS).open("a", encoding="utf-8", buffering=1) as file:
        for one in records:
            file.write(to_line(one) + "\n")  # on disk at once, by `buffering`
            show(one)
            written.append(one)
    return written


def cut_after(path: Path, step: int) -> None:
    """Atomically removes the lines of later steps, and one that was cut short."""
    if path.exists():
        kept = [to_line(record) for record in read_metrics(path) if record.step <= step]
        write_atomically(path, "".join(line + "\n" for line in kept))


def read_metrics(path: Path) -> list[Record]:
    """Reads the records back; null becomes NaN, a line cut short is skipped."""
    records = []
    for line in path.read_text("utf-8").splitlines():
        try:
            fields = json.loads(line)
        except json.JSONDecodeError:
            continue
        step = fields.pop("step")
        rest = {k: math.nan if v is None else v for k, v in fields.items()}
        records.append(Record(step, **rest))
    return records


def series(records: Iterable[Record], name: str) -> tuple[list[int], list[float]]:
    """Returns the steps at which a field was recorded, and its values."""
    points = [(r.step, getattr(r, name)) for r in records]
    points = [(step, value) for step, value in points if value is not None]
    return [step for step, _ in points], [value for _, value in points]


def steps_to_reach(records: Iterable[Record], accuracy: float) -> int | None:
    """Returns the first step evaluated at this test accuracy or better."""
    steps, values = series(records, "test_accuracy")
    return next((s for s, v in zip(steps, values, strict=True) if v >= accuracy), None)
