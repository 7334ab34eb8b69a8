# SPDX-License-Identifier: Apache-2.0
"""What the studies measure is what it is called."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.config import LAB_DENSE, changed
from experiments.data import ArraySource, EvalBatches
from experiments.lab.scores import TARGETS, inference, scores, with_statistics_of
from experiments.lab.shift import layer_inputs, shift, smoothness, wasserstein
from experiments.train.evaluation import with_population_stats
from experiments.train.loop import train
from experiments.train.scanned import (
    LAST_STATE,
    compile_runs,
    in_memory,
    lanes_of,
    make_task,
    program_config,
    train_scanned,
)
from experiments.train.steps import eval_step

pytestmark = pytest.mark.long

BASE = changed(
    LAB_DENSE,
    {"model.hidden": (16, 8), "train.num_steps": 20, "train.eval_every": 5},
)


def measured(config, probe, seeds=(3,)):
    examples = in_memory(config)
    lanes = lanes_of(config, len(examples.train.label), seeds)
    run = compile_runs(config, examples, lanes, probe(program_config(config)))
    return {name: np.asarray(v) for name, v in run(lanes, examples).items()}


@pytest.mark.parametrize(
    "changes",
    [{}, {"data.num_empty": 5}, {"model.dropout": 0.3}, {"norm.noise": 0.5}],
    ids=str,
)
def test_scores_are_those_of_the_loop(changes):
    config = changed(BASE, changes)
    found = measured(config, scores)
    records = list(train(dataclasses.replace(config, seed=3)))
    accuracies = {r.step: r.test_accuracy for r in records if r.test_accuracy}
    assert found["test_accuracy"][0] == pytest.approx(accuracies[20], abs=0.004)
    for target in TARGETS:
        there = [step for step, a in accuracies.items() if a >= target / 100]
        near = [step for step, a in accuracies.items() if abs(a - target / 100) < 0.01]
        if not near:
            assert found[f"steps_to_{target}"][0] == min(there, default=20)
    gap = found["train_accuracy"] - found["test_accuracy"]
    assert found["gap"] == pytest.approx(gap, abs=1e-6)


@pytest.mark.parametrize("debias", [False, True])
def test_population_accuracy_is_that_of_the_library(debias):
    """One pass over all examples at once is the layerwise fixed point."""
    config = changed(BASE, {"norm.debias": debias, "norm.virtual_batch_size": 8})
    found = measured(config, inference)
    task = make_task(program_config(config))
    (state,) = train_scanned(config, [3])
    examples = in_memory(config)
    exact = make_task(program_config(changed(BASE, {"norm.momentum": 0.0})))
    ours = with_statistics_of(exact, state, examples.train)
    new = with_population_stats(
        exact.model, ours, EvalBatches(ArraySource(*examples.train[:2]), 320)
    )
    for layer, of_layer in new.batch_stats.items():
        for name in ("mean", "var"):
            np.testing.assert_allclose(
                ours.batch_stats[layer][name], of_layer[name], 1e-3, 1e-4
            )
    expected = float(eval_step(exact, ours, examples.test).accuracy)
    assert found["population_accuracy"][0] == pytest.approx(expected, abs=0.004)
    running = float(eval_step(task, state, examples.test).accuracy)
    assert found["test_accuracy"][0] == pytest.approx(running, abs=0.004)


def test_shift_is_the_wasserstein_distance():
    old, new = (jax.random.normal(jax.random.key(k), (50, 3)) for k in (0, 1))
    new = 2 * new + jnp.arange(3.0)
    expected = [
        stats.wasserstein_distance(old[:, k], new[:, k])
        / (0.5 * (old[:, k].std() + new[:, k].std()))
        for k in range(3)
    ]
    assert wasserstein(old, new) == pytest.approx(np.mean(expected), rel=1e-4)
    assert wasserstein(old, old[::-1]) == pytest.approx(0, abs=1e-6)  # the same values
    assert wasserstein(old, old + 3 * old.std(0)) == pytest.approx(3, rel=1e-4)


def test_layer_inputs_are_what_enters_the_activations():
    config = program_config(BASE)
    (state,) = train_scanned(config, [0])
    train_examples = in_memory(config).train
    batch = train_examples._replace(
        image=train_examples.image[:64], label=train_examples.label[:64]
    )
    inputs = layer_inputs(make_task(config), state, batch)
    assert [value.shape for value in inputs] == [(64, 16), (64, 8)]
    for value, norm in zip(inputs, ("BatchNorm_0", "BatchNorm_1"), strict=True):
        affine = state.params[norm]
        np.testing.assert_allclose(value.mean(0), affine["bias"], atol=1e-4)
        np.testing.assert_allclose(value.std(0), jnp.abs(affine["scale"]), rtol=2e-2)


def test_smoothness_is_the_change_along_the_gradient():
    """With a rate near 0 nothing changes; with more, more."""
    config = program_config(BASE)
    task = make_task(config)
    examples = in_memory(config)
    batch = examples.train._replace(
        image=examples.train.image[:64], label=examples.train.label[:64]
    )
    changes, losses = [], []
    for rate in (1e-6, 0.01, 0.3):
        rated = changed(BASE, {"optimizer.learning_rate": rate})
        lanes = lanes_of(rated, 1280, [0])
        run = compile_runs(rated, examples, lanes, LAST_STATE)
        state = jax.tree.map(lambda a: a[0], run(lanes, examples))
        found = smoothness(task, state, batch)
        changes.append(float(found["gradient_change"]))
        losses.append(float(found["loss_change"]))
    for values in (changes, losses):
        assert values[0] < 1e-3 and values == sorted(values) and values[2] > 0.05


def test_a_run_that_ends_worse_than_guessing_diverged():
    base = changed(BASE, {"norm.kind": "none"})
    trained, lost = (
        measured(changed(base, {"optimizer.learning_rate": rate}), scores)
        for rate in (0.1, 1000.0)
    )
    assert trained["diverged"] == 0 and lost["diverged"] == 1


def test_noise_moves_the_inputs():
    config = changed(BASE, {"model.activation": "sigmoid"})
    quiet, loud = (
        measured(changed(config, {"norm.noise": noise}), shift) for noise in (0.0, 5.0)
    )
    assert loud["shift"][0] > 3 * quiet["shift"][0]
    assert {f"p{p}_after_{k}" for p in (15, 50, 85) for k in (1, 4)} <= set(quiet)
    assert quiet["p15_after_4"] < quiet["p50_after_4"] < quiet["p85_after_4"]
