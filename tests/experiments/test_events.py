# SPDX-License-Identifier: Apache-2.0
"""TensorBoard's events hold what metrics.jsonl holds."""

import struct
import sys

import pytest
from tensorboardX.proto.event_pb2 import Event

from experiments.errors import UserError
from experiments.run.events import Events
from experiments.run.metrics import Record, read_metrics
from tests.experiments.commands import run_here


def scalars(folder):
    """The scalars of all event files: length, checksum, event, checksum, and so on."""
    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def test_a_run_writes_both(tmp_path):
    folder = tmp_path / "run"
    result = run_here(
        "train", "configs/digits_dense.py", "--workdir", folder,
        "--train.num-steps", "20", "--train.tensorboard",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    held = scalars(folder / "tensorboard")
    for record in read_metrics(folder / "metrics.jsonl"):
        for name in ("loss", "test_accuracy", "images_per_second"):
            expected = getattr(record, name)
            assert held[name, record.step] == pytest.approx(expected, rel=1e-6)


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="needs the package tensorboardX"):
        Events(tmp_path, begin=0)


def test_only_if_asked_for(tmp_path):
    events = Events(tmp_path, begin=5)
    events.write(Record(6, loss=0.5))
    events.close()
    assert scalars(tmp_path / "tensorboard") == {("loss", 6): 0.5}
