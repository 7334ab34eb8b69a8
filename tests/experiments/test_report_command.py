# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: what differs, the last of each measure, one page."""

import json

import pytest
from rich.console import Console

from experiments.cli.report import Report
from experiments.errors import UserError
from experiments.run.metrics import Record, record


def make_run(folder, rate, losses):
    folder.mkdir()
    config = {"name": "a", "optimizer": {"learning_rate": rate, "name": "sgd"}}
    (folder / "config.json").write_text(json.dumps(config))
    records = [
        Record(10 * step, loss, 0.5, 1.0, 64.0, test_accuracy=1 - loss / 4)
        for step, loss in enumerate(losses, 1)
    ]
    record(folder, records, lambda one: None)
    return folder


def test_two_runs(tmp_path, capsys):
    runs = [
        make_run(tmp_path / "slow", 0.01, [2.0, 1.5, 1.25]),
        make_run(tmp_path / "fast", 0.1, [2.0, 1.0, 0.5, 0.125]),
    ]
    output = tmp_path / "pages" / "report.html"
    command = "python -m experiments report slow fast"
    Report(runs=tuple(runs), output=output).run(Console(width=200), command)
    out = capsys.readouterr().out
    assert "optimizer.learning_rate" in out and "optimizer.name" not in out
    assert "1.25" in out and "0.125" in out
    page = output.read_text()
    assert page.count("<svg") == 1 and "http-equiv" not in page and "src=" not in page
    for text in ("slow", "fast", "0.01", "python -m experiments report slow fast"):
        assert text in page


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError) as raised:
        Report(runs=(tmp_path,)).run(Console(), "")
    assert str(raised.value) == (
        f"`{tmp_path}` is not the folder of a run: it has no `config.json`."
    )
    empty = make_run(tmp_path / "empty", 0.1, [])
    with pytest.raises(UserError, match="has no line with a loss yet"):
        Report(runs=(empty,)).run(Console(), "")
    many = [make_run(tmp_path / str(k), 0.1, [1.0]) for k in range(9)]
    with pytest.raises(UserError, match="draws at most 8 runs, got 9"):
        Report(runs=tuple(many), output=tmp_path / "r.html").run(Console(), "")
