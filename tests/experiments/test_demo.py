# SPDX-License-Identifier: Apache-2.0
"""The demo, whole but short."""

import dataclasses
import io

import pytest
from rich.console import Console

import experiments.cli.demo
from experiments.cli.demo import NEXT_STEPS, Demo, Outcome, make_table
from experiments.run.metrics import Record, read_metrics

pytestmark = pytest.mark.documents


def test_trains_writes_and_can_be_run_again(tmp_path, monkeypatch):
    original = experiments.cli.demo.load

    def short(path, kind):
        config = original(path, kind)
        loop = dataclasses.replace(config.train, num_steps=20)
        return dataclasses.replace(config, train=loop)

    monkeypatch.setattr(experiments.cli.demo, "load", short)
    monkeypatch.setattr(experiments.cli.demo, "SEEDS", (0,))
    for _ in range(2):
        out = io.StringIO()
        Demo(workdir=tmp_path).run(Console(file=out, width=100), "")
        assert f"Report: {tmp_path / 'report.html'}" in out.getvalue()
        assert out.getvalue().count("with batch norm │") == 2
    folders = sorted(p.name for p in tmp_path.iterdir() if p.is_dir())
    assert folders == [
        f"digits_{network}_{norm}_seed0"
        for network in ("conv", "dense")
        for norm in ("batch", "none")
    ]
    for name in folders:
        records = read_metrics(tmp_path / name / "metrics.jsonl")
        assert [r.step for r in records] == [10, 20]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("<svg") == 2
    for _, command in NEXT_STEPS:
        assert command in page and command in out.getvalue()
    for network in ("dense", "convolutional"):
        assert (tmp_path / f"{network}.svg").read_text("utf-8") in page


def test_table():
    def run(final, reached):
        return [
            Record(10, loss=1.0, accuracy=0.5, ms_per_step=2.0, test_accuracy=0.5),
            Record(reached, test_accuracy=0.95),
            Record(60, test_accuracy=final, ms_per_step=4.0),
        ]

    outcomes = [
        Outcome("dense", "with batch norm", [run(0.98, 20), run(0.96, 40)]),
        Outcome("dense", "without", [run(0.9, 20), [Record(60, ms_per_step=1.0,
                                                           test_accuracy=0.9)]]),
    ]  # fmt: skip
    assert make_table(outcomes).rows == [
        ["dense", "with batch norm", "97.00 % ± 1.41", "30", "3.00"],
        ["dense", "without", "90.00 % ± 0.00", "not by all", "2.00"],
    ]
