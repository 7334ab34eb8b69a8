# SPDX-License-Identifier: Apache-2.0
"""The loop: it learns, it repeats, and its steps are pure."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    NormConfig,
    OptimizerConfig,
    ParallelConfig,
    TrainConfig,
)
from experiments.data import Batch, load_dataset
from experiments.errors import UserError
from experiments.models import make_model
from experiments.train import steps
from experiments.train.loop import train
from experiments.train.optimizers import make_optimizer
from experiments.train.steps import Task, init_state

pytestmark = pytest.mark.long

train_step, eval_step = (
    jax.jit(step, static_argnums=0) for step in (steps.train_step, steps.eval_step)
)


def short(**changes) -> ExperimentConfig:
    loop = TrainConfig(num_steps=25, eval_every=10, log_every=5)
    return ExperimentConfig(name="short", train=loop, **changes)


def without_times(records):
    return [
        r._replace(ms_per_step=None, images_per_second=None, data_wait=None)
        for r in records
    ]


def test_records_come_when_they_are_due():
    records = list(train(short()))
    assert [r.step for r in records if r.loss is not None] == [5, 10, 15, 20, 25]
    assert [r.step for r in records if r.test_loss is not None] == [10, 20, 25]
    logged = [r for r in records if r.loss is not None]
    assert all(r.ms_per_step > 0 and 0 <= r.data_wait < 1 for r in logged)


def test_the_same_config_gives_the_same_numbers():
    one, same = (without_times(train(short(seed=3))) for _ in range(2))
    other = without_times(train(short(seed=4)))
    assert one == same and one != other


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw", "lars"])
def test_every_optimizer_learns(name):
    rate = {"adam": 0.003, "adamw": 0.003, "lars": 2.0}.get(name, 0.1)
    config = short(
        data=DataConfig(num_train=1280),  # no ragged batch, which is compiled too
        optimizer=OptimizerConfig(name=name, learning_rate=rate),
    )
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


def make_task():
    config = ExperimentConfig(name="a")
    optimizer = make_optimizer(OptimizerConfig(), 10)
    return Task(make_model(config, 10), optimizer), load_dataset(config.data)


def test_steps_are_pure_and_count():
    task, data = make_task()
    batch = Batch(data.train.image[:32], data.train.label[:32])
    state = init_state(task, batch.image, 0)
    before = jax.tree.map(np.asarray, state)
    new, scores = train_step(task, state, batch)
    jax.tree.map(np.testing.assert_array_equal, before, state)
    assert new.step == 1 and np.isfinite(scores.loss) and scores.count == 32
    changed = jax.tree.map(
        lambda a, b: not np.array_equal(a, b), state.batch_stats, new.batch_stats
    )
    assert all(jax.tree.leaves(changed))
    by_running_averages = eval_step(task, new, batch)
    assert not np.isclose(by_running_averages.loss, scores.loss)


def test_evaluation_is_by_running_averages():
    """A test example's scores do not depend on the others in the batch."""
    task, data = make_task()
    state = init_state(task, data.test.image[:8], 0)

    def losses(start, stop):
        batch = Batch(data.test.image[start:stop], data.test.label[start:stop])
        return eval_step(task, state, batch).loss

    one = [losses(i, i + 1) for i in range(8)]
    np.testing.assert_allclose(np.mean(one), losses(0, 8), rtol=1e-5)


def test_what_does_not_count_changes_nothing():
    """A ragged batch trains as a smaller one does."""
    task, data = make_task()
    image, label = data.train.image[:32].copy(), data.train.label[:32]
    image[20:] = 1e3
    state = init_state(task, image, 0)
    ragged, scores = train_step(task, state, Batch(image, label, jnp.arange(32) < 20))
    small, expected = train_step(task, state, Batch(image[:20], label[:20]))
    assert scores.count == 20
    np.testing.assert_allclose(scores.loss, expected.loss, rtol=1e-6)
    for one, other in zip(jax.tree.leaves(ragged), jax.tree.leaves(small), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("statistics", ["global", "device", 2])
def test_every_mode_and_number_of_devices_gives_the_same(statistics):
    """By statistics: of the whole batch, on any number; of parts, by their number."""
    curves = {}
    numbers = {"global": (1, 8), "device": (1, 4), 2: (2, 8)}[statistics]
    data = DataConfig(num_empty=5)  # every batch has a mask: one program
    loop = TrainConfig(num_steps=10, eval_every=10, log_every=5)
    for mode in ("jit", "shard_map", "pmap"):
        for num in numbers:
            parallel = ParallelConfig(mode=mode, num_devices=num, statistics=statistics)
            config = ExperimentConfig(
                name="short", data=data, train=loop, parallel=parallel
            )
            losses = [r.loss for r in train(config) if r.loss is not None]
            parts = {"global": 1, "device": num, 2: num // 2}[statistics]
            curves.setdefault(parts, []).append(losses)
    for same in curves.values():
        np.testing.assert_allclose(same, np.broadcast_to(same[0], np.shape(same)), 1e-4)
    if statistics != "global":
        assert abs(curves[4][0][0] / curves[1][0][0] - 1) > 1e-3


def test_too_few_devices_are_named():
    config = ExperimentConfig(name="a", parallel=ParallelConfig(num_devices=64))
    with pytest.raises(UserError) as raised:
        next(train(config))
    assert str(raised.value) == (
        "`parallel.num_devices` must be at most 8, the number of cpu devices here, got "
        "64."
    )


def test_not_finite_ends_the_run():
    config = short(
        optimizer=OptimizerConfig(learning_rate=1e30), norm=NormConfig(kind="none")
    )
    with pytest.raises(UserError) as raised:
        list(train(config))
    text = str(raised.value)
    assert text.startswith("the loss is not finite at step ") and "`params/" in text


def test_with_and_without_norm_see_the_same_data(monkeypatch):
    import experiments.train.loop as training

    seen = []
    original = training.train_batches

    def spy(*args):
        stream = original(*args)
        take = stream.__next__

        class Spy:
            def __next__(self):
                batch = take()
                seen[-1].append(np.asarray(batch.label))
                return batch

        return Spy()

    monkeypatch.setattr(training, "train_batches", spy)
    for kind in ("batch", "none"):
        seen.append([])
        list(train(dataclasses.replace(short(), norm=NormConfig(kind=kind))))
    np.testing.assert_array_equal(*seen)
