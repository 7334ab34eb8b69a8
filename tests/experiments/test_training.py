# SPDX-License-Identifier: Apache-2.0
"""The loop: it learns, it repeats, and its steps are pure."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from experiments.config import (
    ExperimentConfig,
    ModelConfig,
    NormConfig,
    OptimizerConfig,
    TrainConfig,
)
from experiments.data import load_dataset
from experiments.models import make_model
from experiments.training import (
    eval_step,
    init_state,
    make_optimizer,
    train,
    train_step,
)


def short(**changes) -> ExperimentConfig:
    loop = TrainConfig(num_steps=25, eval_every=10, log_every=5)
    return ExperimentConfig(name="short", train=loop, **changes)


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Flax and optax rely on implicit promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def without_times(records):
    return [r._replace(ms_per_step=None) for r in records]


def test_records_come_when_they_are_due():
    records = list(train(short()))
    assert [r.step for r in records if r.loss is not None] == [5, 10, 15, 20, 25]
    assert [r.step for r in records if r.test_loss is not None] == [10, 20, 25]
    assert all(r.ms_per_step > 0 for r in records if r.loss is not None)


def test_the_same_config_gives_the_same_numbers():
    one, same = (without_times(train(short(seed=3))) for _ in range(2))
    other = without_times(train(short(seed=4)))
    assert one == same and one != other


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_every_optimizer_learns(name):
    rate = 0.003 if name == "adam" else 0.1
    config = short(optimizer=OptimizerConfig(name=name, learning_rate=rate))
    records = [r.loss for r in train(config) if r.loss is not None]
    assert records[-1] < records[0] / 2


@pytest.mark.parametrize("model", ["dense", "conv"])
def test_reaches_what_the_demo_promises(model):
    """97 % dense, 97.5 % convolutional, mean of three seeds, by running averages."""
    scores = []
    for seed in range(3):
        config = ExperimentConfig(name="x", seed=seed, model=ModelConfig(name=model))
        scores.append([r.test_accuracy for r in train(config)][-1])
    assert np.mean(scores) >= {"dense": 0.97, "conv": 0.975}[model], scores


def test_steps_are_pure_and_count():
    data = load_dataset("digits")
    model = make_model(ModelConfig(), NormConfig(), 10)
    optimizer = make_optimizer(OptimizerConfig())
    batch = jax.tree.map(lambda a: a[:32], data.train)
    state = init_state(model, optimizer, batch.image, 0)
    before = jax.tree.map(np.asarray, state)
    new, scores = train_step(model, optimizer, state, batch)
    jax.tree.map(np.testing.assert_array_equal, before, state)
    assert new.step == 1 and np.isfinite(scores.loss)
    changed = jax.tree.map(
        lambda a, b: not np.array_equal(a, b), state.batch_stats, new.batch_stats
    )
    assert all(jax.tree.leaves(changed))
    by_running_averages = eval_step(model, new, batch)
    assert not np.isclose(by_running_averages.loss, scores.loss)


def test_evaluation_is_by_running_averages():
    """A test example's scores do not depend on the others in the batch."""
    data = load_dataset("digits")
    model = make_model(ModelConfig(), NormConfig(), 10)
    state = init_state(model, optax.sgd(0.1), data.test.image[:8], 0)
    one = [
        eval_step(model, state, jax.tree.map(lambda a, i=i: a[i : i + 1], data.test))
        for i in range(8)
    ]
    all_ = eval_step(model, state, jax.tree.map(lambda a: a[:8], data.test))
    np.testing.assert_allclose(np.mean([s.loss for s in one]), all_.loss, rtol=1e-5)


def test_with_and_without_norm_see_the_same_data(monkeypatch):
    import experiments.training as training

    seen = []
    original = training.batches

    def spy(*args):
        for batch in original(*args):
            seen[-1].append(np.asarray(batch.label))
            yield batch

    monkeypatch.setattr(training, "batches", spy)
    for kind in ("batch", "none"):
        seen.append([])
        list(train(dataclasses.replace(short(), norm=NormConfig(kind=kind))))
    np.testing.assert_array_equal(*seen)
