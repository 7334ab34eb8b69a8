# SPDX-License-Identifier: Apache-2.0
"""The ranges of the config's fields, and that every config file loads."""

import dataclasses

import pytest

from experiments.config import (
    AdaptationStudy,
    BatchSizeStudy,
    BenchConfig,
    DataConfig,
    ExperimentConfig,
    InferenceStudy,
    NormConfig,
    OptimizerConfig,
    StudyConfig,
    TrainConfig,
)
from experiments.loading import available, load

BASE = {"name": "a", "experiment": ExperimentConfig(name="b")}
ERRORS = [
    (lambda: NormConfig(group_size=0), "`norm.group_size` must be >= 1, got 0."),
    (
        lambda: InferenceStudy(**BASE, num_seeds=0),
        "`num_seeds` must be >= 1, got 0.",
    ),
    (
        lambda: InferenceStudy(**BASE, steps=(3, 2)),
        "`steps` must be increasing, from 1, got (3, 2).",
    ),
    (
        lambda: AdaptationStudy(**BASE, batch_size=1),
        "`batch_size` must be >= 2, got 1.",
    ),
    (
        lambda: AdaptationStudy(**BASE, prior_counts=()),
        "`prior_counts` must be >= 0, at least one, got ().",
    ),
    (
        lambda: BatchSizeStudy(**BASE, batch_sizes=(1, 2)),
        "`batch_sizes` must be >= 2, at least one, got (1, 2).",
    ),
    (
        lambda: BatchSizeStudy(**BASE, batch_sizes=(48,)),
        "`batch_sizes` must be divisors of experiment.data.batch_size, 64, got (48,).",
    ),
    (lambda: DataConfig(batch_size=1), "`data.batch_size` must be >= 2, got 1."),
    (lambda: NormConfig(momentum=1.0), "`norm.momentum` must be in [0, 1), got 1.0."),
    (lambda: NormConfig(epsilon=0.0), "`norm.epsilon` must be > 0, got 0.0."),
    (
        lambda: OptimizerConfig(learning_rate=float("nan")),
        "`optimizer.learning_rate` must be > 0, got nan.",
    ),
    (lambda: BenchConfig(name="a", rounds=0), "`rounds` must be >= 1, got 0."),
    (
        lambda: BenchConfig(name="a", shape=(3, 2, 2, 2)),
        "`shape` must be positive, of an even number of examples, got (3, 2, 2, 2).",
    ),
    (lambda: TrainConfig(num_steps=0), "`train.num_steps` must be >= 1, got 0."),
    (lambda: TrainConfig(eval_every=0), "`train.eval_every` must be >= 1, got 0."),
    (
        lambda: NormConfig(virtual_batch_size=1),
        "`norm.virtual_batch_size` must be >= 2, got 1.",
    ),
    (
        lambda: ExperimentConfig(name="a", norm=NormConfig(virtual_batch_size=24)),
        "`norm.virtual_batch_size` must be a divisor of data.batch_size, 64, got 24.",
    ),
    (
        lambda: ExperimentConfig(name="a/b"),
        "`name` must be a plain folder name, got 'a/b'.",
    ),
    (
        lambda: ExperimentConfig(name="a", seed=-1),
        "`seed` must be in [0, 2**32), got -1.",
    ),
]


@pytest.mark.parametrize(("call", "text"), ERRORS, ids=[text for _, text in ERRORS])
def test_range(call, text):
    with pytest.raises(ValueError) as raised:
        call()
    assert str(raised.value) == text


@pytest.mark.parametrize("path", [p for p, _ in available()], ids=lambda p: p.stem)
def test_config_file(path):
    command, kind = "train", ExperimentConfig
    if path.stem.startswith("bench_"):
        command, kind = "bench", BenchConfig
    if path.parent.name == "studies":
        command, kind = "study", StudyConfig
    config = load(path, kind)
    assert config.name == path.stem
    text = path.read_text()
    for said in (f"python -m experiments {command} {path}", "Cost:", "Expected:"):
        assert said in text
    assert "TODO" not in text


def test_there_are_configs():
    assert {"digits_dense", "digits_conv"} <= {p.stem for p, _ in available()}


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExperimentConfig(name="a").seed = 2  # type: ignore[misc]
