# SPDX-License-Identifier: Apache-2.0
"""A diagnosis as text and as a table."""

import io

import pytest
from rich.console import Console

from tests.diagnosis.nets import diagnosed, healthy, make_batches

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture(scope="module")
def faulty():
    variables = healthy()
    variables["batch_stats"]["norm1"]["var"] *= 4
    return variables


def shown(diagnosis, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(diagnosis)
    return console.file.getvalue()


def test_text(faulty):
    diagnosis = diagnosed(faulty, steps=20)
    text = str(diagnosis)
    first, empty, *rest = text.splitlines()
    assert first == "3 batch norms, 8 batches: 4 warnings." and not empty
    # Findings that are alike but for the layer are one.
    assert "warning: `norm0`, `norm1`, `norm2`: momentum" in rest
    assert "warning: `norm1`: train/eval gap" in rest
    for finding in diagnosis.findings:
        assert f"  figure: {finding.figure}" in rest
        assert f"  ground: {finding.ground}" in rest
        assert f"  fix:    {finding.fix}" in rest
    assert rest[-2:] == ["Not checked:", "  weight decay: needs `decay_mask`"]


def test_a_healthy_net():
    text = str(diagnosed(healthy(), decay_mask=False))
    assert text == "3 batch norms, 8 batches: nothing; no alarm."


@pytest.mark.parametrize("width", [60, 120])
def test_table(faulty, width):
    text = shown(diagnosed(faulty), width)
    assert all(name in text for name in ("norm0", "norm1", "norm2", "warning"))
    assert max(map(len, text.splitlines())) <= width


def test_markup_in_a_name_is_text(faulty):
    diagnosis = diagnosed(faulty)
    layer = diagnosis.layers[1]._replace(path="[bold]norm[/nothing]")
    assert "[bold]norm[/nothing]" in shown(diagnosis._replace(layers=(layer,)))


def test_errors_come_first(faulty):
    faulty = {
        **faulty,
        "batch_stats": {k: dict(v) for k, v in faulty["batch_stats"].items()},
    }
    faulty["batch_stats"]["norm2"]["var"] *= -1
    levels = [
        f.level for f in diagnosed(faulty, make_batches(), decay_mask=True).findings
    ]
    assert levels == sorted(levels, key=["error", "warning", "information"].index)
    assert set(levels) == {"error", "warning", "information"}
