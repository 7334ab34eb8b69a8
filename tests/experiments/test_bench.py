# SPDX-License-Identifier: Apache-2.0
"""The benchmarks: what they time is right, and the command as a real process."""

import json

import jax
import numpy as np
import pytest

from experiments.bench.layer import CASES, make_step
from experiments.cli.bench import medians, ratios
from experiments.config import BenchConfig
from tests.experiments.commands import one_line_error, run, run_here

pytestmark = pytest.mark.long

CONFIG = BenchConfig(name="tiny", shape=(8, 4, 4, 2), rounds=2)
BY_TITLE = {case.title: case for case in CASES}


@pytest.mark.parametrize("title", [t for t, c in BY_TITLE.items() if not c.segments])
def test_the_libraries_compute_the_same(title):
    """Output, running statistics, gradients; outputs where positions count."""
    case = BY_TITLE[title]
    ours, theirs = (make_step(name, case, CONFIG)() for name in ("jaxbn", "flax"))
    held = 6 if case.masked else 8
    np.testing.assert_allclose(ours[0][:held], theirs[0][:held], atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), ours[1], theirs[1]
    )
    assert (ours[2] is not None) == case.backward
    if case.backward and not case.masked:  # Flax's pads reach its gradients
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-4),
            ours[2],
            theirs[2],
        )


def test_no_other_library_has_segments():
    """Of eight examples, each is a segment."""
    case = BY_TITLE["forward, 8 segments"]
    assert make_step("flax", case, CONFIG) is None
    y, stats, _ = make_step("jaxbn", case, CONFIG)()
    assert stats["mean"].shape == (8, 2)
    np.testing.assert_allclose(np.mean(y, (1, 2)), 0, atol=1e-5)


def test_ratios_are_of_the_same_round():
    seconds = {"jaxbn": [1.0, 10.0, 1.0], "flax": [2.0, 20.0, 3.0]}
    assert medians(seconds) == {"jaxbn": 1000.0, "flax": 3000.0}
    assert ratios(seconds) == {"jaxbn": 1.0, "flax": 2.0}


def test_command(tmp_path):
    result = run(
        "bench", "configs/bench_layer.py", "--workdir", tmp_path,
        "--shape", "4", "4", "4", "2", "--rounds", "2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "flax / jaxbn" in result.stdout and "\x1b" not in result.stdout
    written = json.loads((tmp_path / "bench.json").read_text())
    assert list(written["cases"]) == list(BY_TITLE)
    for title, seconds in written["cases"].items():
        assert all(len(times) == 2 for times in seconds.values())
        assert "jaxbn" in seconds
        assert ("flax" in seconds) == (not BY_TITLE[title].segments)


def test_network_command(tmp_path):
    result = run_here(
        "bench", "configs/bench_resnet50.py", "--workdir", tmp_path,
        "--network", "resnet18", "--shape", "2", "16", "16", "3", "--rounds", "2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (
        "images/s" in result.stdout and "A training step of resnet18" in result.stdout
    )
    written = json.loads((tmp_path / "bench.json").read_text())
    assert set(written["cases"]["training step"]) == {"jaxbn", "flax"}
    assert min(written["memory"].values()) > 1e8  # parameters and momentum alone


def test_runs_command(tmp_path):
    result = run_here(
        "bench", "configs/bench_lab.py", "--workdir", tmp_path,
        "--num-runs", "2", "--rounds", "1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "runs a minute" in result.stdout
    written = json.loads((tmp_path / "bench.json").read_text())
    assert {"jaxbn"} <= set(written["cases"]["training runs"])
    assert min(written["accuracy"].values()) > 0.93 and written["allocator"] == {}


def test_a_config_of_the_other_kind_is_refused():
    assert one_line_error(run_here("bench", "configs/digits_dense.py")) == (
        "error: config `configs/digits_dense.py`: `get_config()` must return a "
        "`BenchConfig`, got ExperimentConfig; `train` takes it."
    )


def test_inference_command(tmp_path):
    result = run_here(
        "bench", "configs/bench_folding.py", "--workdir", tmp_path,
        "--network", "resnet18", "--shape", "2", "32", "32", "3", "--rounds", "1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Inference of resnet18" in result.stdout
    (seconds,) = json.loads((tmp_path / "bench.json").read_text())["cases"].values()
    assert list(seconds) == ["jaxbn", "flax", "folded"]
    line = one_line_error(
        run_here("bench", "configs/bench_folding.py", "--network", "layer")
    )
    assert "`step` must be training with network layer, got 'inference'" in line
