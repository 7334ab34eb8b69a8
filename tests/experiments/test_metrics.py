# SPDX-License-Identifier: Apache-2.0
"""Metrics are written, read back, and survive what cuts them short."""

import json
import math

from experiments.run.metrics import (
    Record,
    read_metrics,
    record,
    series,
    steps_to_reach,
    to_line,
)

RECORDS = [
    Record(10, loss=0.5, accuracy=0.8, ms_per_step=1.5),
    Record(20, test_loss=0.4, test_accuracy=0.9),
    Record(30, loss=0.25, test_accuracy=0.96),
    Record(40, test_accuracy=0.94),
]


def test_round_trip(tmp_path):
    path = tmp_path / "metrics.jsonl"
    on_disk = []
    written = record(tmp_path, RECORDS, lambda _: on_disk.append(read_metrics(path)))
    assert written == RECORDS
    assert on_disk == [RECORDS[:k] for k in range(1, 5)]  # each at once
    assert read_metrics(path) == RECORDS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all("step" in line for line in lines)
    assert lines[1] == {"step": 20, "test_loss": 0.4, "test_accuracy": 0.9}


def test_what_is_not_finite_is_valid_json(tmp_path):
    text = to_line(Record(1, loss=math.nan, accuracy=math.inf))
    assert text == '{"step": 1, "loss": null, "accuracy": null}'
    path = tmp_path / "metrics.jsonl"
    path.write_text(text + "\n")
    assert math.isnan(read_metrics(path)[0].loss)


def test_a_line_cut_short_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(path) == [Record(1, loss=2.0)]


def test_series_and_steps_to_reach():
    assert series(RECORDS, "loss") == ([10, 30], [0.5, 0.25])
    assert steps_to_reach(RECORDS, 0.95) == 30
    assert steps_to_reach(RECORDS, 0.99) is None
