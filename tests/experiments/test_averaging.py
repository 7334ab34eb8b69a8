# SPDX-License-Identifier: Apache-2.0
"""Averaged weights: the average of the steps, with statistics of their own."""

import functools

import jax
import numpy as np
import pytest

from experiments.config import (
    DataConfig,
    ExperimentConfig,
    ParallelConfig,
    TrainConfig,
)
from experiments.data import load_dataset, train_batches
from experiments.models import make_model
from experiments.train.evaluation import with_average
from experiments.train.loop import train
from experiments.train.optimizers import make_optimizer
from experiments.train.steps import Task, init_state, train_step


def config(**parallel):
    loop = TrainConfig(num_steps=12, eval_every=12, log_every=12, average_decay=0.8)
    return ExperimentConfig(
        name="a",
        data=DataConfig(num_train=1280),  # no ragged batch, which is compiled too
        train=loop,
        parallel=ParallelConfig(**parallel),
    )


def test_is_the_average_with_its_own_statistics():
    data = load_dataset(config().data)
    model = make_model(config(), 10)
    optimizer = make_optimizer(config().optimizer, 12)
    task = Task(model, optimizer, average_decay=0.8)
    step = jax.jit(functools.partial(train_step, task))
    state = init_state(task, data.train.image[:2], 0)
    expected = state.params
    stream = train_batches(data.train, config().data, 0)
    for _ in range(5):
        state, _ = step(state, next(stream))
        expected = jax.tree.map(lambda a, p: 0.8 * a + 0.2 * p, expected, state.params)
    for one, other in zip(
        jax.tree.leaves(state.average), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    averaged = with_average(model, state, data.train)
    kernel, bias = (
        np.asarray(expected["Dense_0"][name], np.float64) for name in ("kernel", "bias")
    )
    hidden = data.train.image.reshape(len(data.train), -1) @ kernel + bias
    stats = averaged.batch_stats["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], hidden.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["var"], hidden.var(0), rtol=1e-4)


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_is_evaluated_at_the_end(mode):
    *_, last = train(config(mode=mode, num_devices=2))
    assert last.step == 12 and last.average_test_accuracy > 0.5
    assert last.average_test_accuracy != last.test_accuracy


def test_range():
    with pytest.raises(ValueError, match=r"`train.average_decay` must be in \(0, 1\)"):
        TrainConfig(average_decay=1.0)
