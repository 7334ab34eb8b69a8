# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of Flax's layers in layers that count their updates.

A checkpoint has `mean` and `var` alone. With `debias` its statistics are taken for
settled, and updated as they would have been without.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization

import jaxbn.linen
import jaxbn.nnx

pytestmark = pytest.mark.usefixtures("as_users_run_it")
MEAN, VAR = jnp.array([5.0, 0.0, -3.0]), jnp.array([4.0, 1.0, 0.25])


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(15, 1, (64, 3)), jnp.float32)


@pytest.fixture
def old():
    """The variables of a trained Flax layer."""
    params = {"scale": jnp.ones(3), "bias": jnp.zeros(3)}
    return {"params": params, "batch_stats": {"mean": MEAN, "var": VAR}}


def steps_of_flax(old, x, num=3):
    norm = nn.BatchNorm(use_running_average=False)
    for _ in range(num):
        _, updates = norm.apply(old, x, mutable=["batch_stats"])
        old = {**old, **updates}
    return old["batch_stats"]


def steps(norm, variables, x, num=3):
    step = jax.jit(partial(norm.apply, mutable=["batch_stats"]))
    for _ in range(num):
        _, updates = step(variables, x)
        variables = {**variables, **updates}
    return variables["batch_stats"]


def check(stats, expected):
    """As Flax's; the second feature stands at the start, which has no weight."""
    known = np.array([True, False, True])
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            np.asarray(stats[name])[known], np.asarray(expected[name])[known], 1e-5
        )
    np.testing.assert_allclose(stats["mean"][1], 15, rtol=0.1)


def test_linen_without_a_count(old, x):
    norm = jaxbn.linen.BatchNorm(use_running_average=False, debias=True)
    check(steps(norm, old, x), steps_of_flax(old, x))


def test_linen_with_a_fresh_count(old, x):
    """As after a merge of the checkpoint into initial variables, leaf by leaf."""
    norm = jaxbn.linen.BatchNorm(use_running_average=False, debias=True)
    fresh = norm.init(jax.random.key(0), x)["batch_stats"]
    merged = {**old, "batch_stats": {**fresh, **old["batch_stats"]}}
    check(steps(norm, merged, x), steps_of_flax(old, x))
    # Of version 0.1.0: one count for all features.
    merged["batch_stats"]["count"] = jnp.zeros(())
    stats = steps(norm, merged, x)
    np.testing.assert_allclose(stats["mean"], steps_of_flax(old, x)["mean"], 1e-5)


@pytest.mark.parametrize("fields", [{"debias": True}, {"momentum": None}])
def test_inference_needs_no_count(old, x, fields):
    """Neither does a step that leaves the statistics alone."""
    norm = jaxbn.linen.BatchNorm(**fields)
    y = norm.apply(old, x, use_running_average=True)
    np.testing.assert_allclose(y, (x - MEAN) / jnp.sqrt(VAR + 1e-5), rtol=1e-5)
    norm.apply(old, x, use_running_average=False, update_stats=False)


def test_flax_serialization_names_what_is_missing(old, x):
    norm = jaxbn.linen.BatchNorm(use_running_average=False, debias=True)
    fresh = norm.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="count"):
        serialization.from_state_dict(fresh, serialization.to_state_dict(old))
    # Into variables without it the checkpoint goes.
    restored = serialization.from_state_dict(old, serialization.to_state_dict(old))
    check(steps(norm, restored, x), steps_of_flax(old, x))


def test_orbax(old, x, tmp_path):
    norm = jaxbn.linen.BatchNorm(use_running_average=False, debias=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "flax", old)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "flax", old)
    check(steps(norm, restored, x), steps_of_flax(old, x))


@pytest.mark.parametrize("jit", [False, True])
def test_nnx_update(old, x, jit):
    theirs = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    theirs.mean.set_value(MEAN)
    theirs.var.set_value(VAR)
    norm = jaxbn.nnx.BatchNorm(3, debias=True, rngs=nnx.Rngs(0))
    nnx.update(norm, nnx.state(theirs))

    def step(norm, x):
        norm(x)

    for _ in range(3):
        (nnx.jit(step) if jit else step)(norm, x)
    check({"mean": norm.mean[...], "var": norm.var[...]}, steps_of_flax(old, x))


def test_nnx_average_of_all_updates_takes_them_for_one(x):
    """Their number is not known, and a layer of NNX cannot see that it is missing."""
    norm = jaxbn.nnx.BatchNorm(3, momentum=None, rngs=nnx.Rngs(0))
    norm.mean.set_value(MEAN + 1)
    norm(x)
    np.testing.assert_allclose(norm.mean[...], (MEAN + 1 + x.mean(0)) / 2, 1e-5)
    np.testing.assert_array_equal(norm.count[...], 2)


def test_flax_reads_what_counted(old, x):
    """And back: Flax's layer ignores the count."""
    norm = jaxbn.linen.BatchNorm(use_running_average=False, debias=True)
    stats = steps(norm, old, x)
    variables = {**old, "batch_stats": stats}
    theirs = nn.BatchNorm(use_running_average=True).apply(variables, x)
    ours = jaxbn.linen.BatchNorm(use_running_average=True).apply(variables, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
