# SPDX-License-Identifier: Apache-2.0
"""`plan` with the compilers of TPU and GPU."""

import re

import pytest

from experiments.hardware.targets import EXAMPLES, TPU_MEMORY, find
from tests.experiments.commands import one_line_error, run_here

pytestmark = pytest.mark.hardware


def planned(name, *more):
    """The cells of each row, and all that was printed."""
    result = run_here("plan", "digits_dense", "--hardware", name, *more)
    assert result.returncode == 0, result.stderr
    lines = re.findall(r"^│ (.*) │$", result.stdout, re.MULTILINE)
    rows = [[cell.strip() for cell in line.split("│")] for line in lines]
    return {name: cells for name, *cells in rows}, result.stdout


@pytest.mark.parametrize(
    ("name", "mode", "figure"),
    [
        ("v5e:2x2", "shard_map", "estimated cycles"),
        ("h200:4", "jit", "time by memory"),
    ],
)
def test_a_small_network(name, mode, figure, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows, text = planned(name, "--parallel.mode", mode)
    assert {"memory", "bytes accessed", "all-reduces", figure} <= {*rows}
    assert all(len(cells) == 3 for cells in rows.values())
    (share,) = (cells for row, cells in rows.items() if row.startswith("of "))
    assert share[0] == "0.0%" and "too large" not in text
    assert int(rows["all-reduces"][0]) >= 1
    assert f"compiling for {name}, norm Flax" in text
    assert f"{mode} over 4 devices" in text and "not measurements" in text


@pytest.mark.parametrize("name", ["v5e:2x2", "h200:4"])
def test_each_layer_of_a_scan_counts(name, monkeypatch):
    """Its all-reduces of statistics, forward and backward, and of its gradients."""
    monkeypatch.setenv("COLUMNS", "200")
    model = ("--model.name", "plain", "--model.depth")
    few, many = (
        int(planned(name, *model, depth)[0]["all-reduces"][0]) for depth in ("4", "8")
    )
    assert (many - few) % 4 == 0 and 3 * 4 <= many - few <= 6 * 4


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_kind_is_known_to_its_compiler(kind):
    target = find(f"{kind}:{EXAMPLES[kind]}")
    assert len(target.devices) >= 4
    assert target.platform == ("tpu" if kind in TPU_MEMORY else "cuda")


def test_a_network_that_does_not_fit(monkeypatch):
    """The memory that the compiler of a TPU names is the one that we name."""
    monkeypatch.setenv("COLUMNS", "200")
    rows, _ = planned("v5e:1x1", "--model.hidden", "50000", "50000")
    assert {*rows} == {"memory", "of 16.9 GB"}
    assert all(cell.endswith("%, too large") for cell in rows["of 16.9 GB"][:2])


def test_no_layout_of_a_tpu():
    line = one_line_error(run_here("plan", "digits_dense", "--hardware", "v5e:3x3"))
    assert line.startswith("error: `--hardware` v5e:3x3 is no layout of a TPU: ")
