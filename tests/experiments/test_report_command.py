# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: what differs, the last of each measure, one page."""

import json

import pytest
from rich.console import Console

from experiments.cli.report import report
from experiments.errors import UserError
from experiments.run.metrics import MetricsWriter, Record


def make_run(folder, rate, losses):
    folder.mkdir()
    config = {"name": "a", "optimizer": {"learning_rate": rate, "name": "sgd"}}
    (folder / "config.json").write_text(json.dumps(config))
    with MetricsWriter(folder / "metrics.jsonl") as writer:
        for step, loss in enumerate(losses, 1):
            writer.write(
                Record(10 * step, loss, 0.5, 1.0, 64.0, test_accuracy=1 - loss / 4)
            )
    return folder


def test_two_runs(tmp_path, capsys):
    runs = [
        make_run(tmp_path / "slow", 0.01, [2.0, 1.5, 1.25]),
        make_run(tmp_path / "fast", 0.1, [2.0, 1.0, 0.5, 0.125]),
    ]
    output = tmp_path / "pages" / "report.html"
    report(Console(width=200), runs, output, "python -m experiments report slow fast")
    out = capsys.readouterr().out
    assert "optimizer.learning_rate" in out and "optimizer.name" not in out
    assert "1.25" in out and "0.125" in out
    page = output.read_text()
    assert page.count("<svg") == 1 and "http-equiv" not in page and "src=" not in page
    for text in ("slow", "fast", "0.01", "python -m experiments report slow fast"):
        assert text in page


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError) as raised:
        report(Console(), [tmp_path], tmp_path / "r.html", "")
    assert str(raised.value) == (
        f"`{tmp_path}` is not the folder of a run: no `config.json`."
    )
    empty = make_run(tmp_path / "empty", 0.1, [])
    with pytest.raises(UserError, match="has no line with a loss yet"):
        report(Console(), [empty], tmp_path / "r.html", "")
    many = [make_run(tmp_path / str(k), 0.1, [1.0]) for k in range(9)]
    with pytest.raises(UserError, match="draws at most 8 runs, got 9"):
        report(Console(), many, tmp_path / "r.html", "")
