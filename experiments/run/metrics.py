# SPDX-License-Identifier: Apache-2.0
"""Metrics on disk: `metrics.jsonl`, one JSON object a line, each with `step`."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Record(NamedTuple):
    """What one line says; what it does not say is None and left out."""

    step: int
    loss: float | None = None
    accuracy: float | None = None
    ms_per_step: float | None = None
    images_per_second: float | None = None
    data_wait: float | None = None  # the part of the time in which a step has no data
    test_loss: float | None = None
    test_accuracy: float | None = None
    average_test_loss: float | None = None
    average_test_accuracy: float | None = None


def to_line(record: Record) -> str:
    """Returns the record as JSON; what is not finite, which JSON lacks, is null."""
    return json.dumps(
        {
            name: value if math.isfinite(value) else None
            for name, value in record._asdict().items()
            if value is not None
        }
    )


class MetricsWriter:
    """Appends records to a file, a whole line at a time, at once on disk."""

    def __init__(self, path: Path):
        """Opens the file."""
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, record: Record) -> None:
        """Appends one line."""
        self._file.write(to_line(record) + "\n")

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def cut_after(path: Path, step: int) -> None:
    """Removes the lines of later steps, and one cut short, whole or not at all."""
    if not path.exists():
        return
    kept = [to_line(record) for record in read_metrics(path) if record.step <= step]
    unfinished = path.with_suffix(".part")
    unfinished.write_text("".join(line + "\n" for line in kept), "utf-8")
    unfinished.replace(path)


def read_metrics(path: Path) -> list[Record]:
    """Reads the records back; null becomes NaN, a line cut short is passed over."""
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
