# SPDX-License-Identifier: Apache-2.0
"""Haiku's trees: averages, counters, axes of size 1. With Haiku in `tests/networks`."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbn.nnx
from jaxbn.convert import from_haiku, to_haiku

pytestmark = pytest.mark.usefixtures("as_users_run_it", "without_type_checker")

MOMENTUM = 0.75


def trees(count=3, dtype=jnp.float32):
    """A batch norm of images after `count` updates."""
    params = {"bn": {"scale": jnp.full((1, 1, 1, 2), 2.0, dtype)}}
    params["bn"]["offset"] = jnp.full((1, 1, 1, 2), 3.0, dtype)
    state = {}
    for name, value in (("mean", 5.0), ("var", 7.0)):
        hidden = np.full((1, 1, 1, 2), value, np.float32)
        average = hidden / max(1 - MOMENTUM**count, 1e-9)
        if count == 0:
            hidden, average = 0 * hidden, 0 * average
        state[f"bn/~/{name}_ema"] = {
            "counter": jnp.asarray(count, jnp.int32),
            "hidden": jnp.asarray(hidden, dtype),
            "average": jnp.asarray(average, dtype),
        }
    return params, state


def norm(**fields):
    return jaxbn.nnx.BatchNorm(2, momentum=MOMENTUM, rngs=nnx.Rngs(0), **fields)


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("count", [0, 3])
def test_there_and_back(debias, count):
    given = trees(count)
    model = from_haiku(norm(debias=debias), *given)
    assert np.all(model.scale[...] == 2) and np.all(model.bias[...] == 3)
    mean = 5 / (1 - MOMENTUM**3) if count else 0
    np.testing.assert_allclose(model.mean[...], mean, rtol=1e-6)
    if debias:
        assert np.all(model.count[...] == count)
    chex.assert_trees_all_equal(to_haiku(model, *given), given)
    if debias and not count:  # the first batch is all that is averaged
        model(jnp.array([[1.0, 1.0], [5.0, 5.0]]))
        np.testing.assert_allclose(model.mean[...], 3, rtol=1e-6)
        np.testing.assert_allclose(model.var[...], 4, rtol=1e-6)


def test_new_statistics():
    given = trees()
    model = from_haiku(norm(debias=True), *given)
    model(jnp.ones((4, 2)) * jnp.arange(4.0)[:, None])
    _, state = to_haiku(model, *given)
    for name, batch in (("mean", 1.5), ("var", 1.25)):
        ema, old = state[f"bn/~/{name}_ema"], given[1][f"bn/~/{name}_ema"]
        assert ema["counter"] == 4
        hidden = MOMENTUM * old["hidden"] + (1 - MOMENTUM) * batch
        np.testing.assert_allclose(ema["hidden"], hidden, rtol=1e-6)
        average = hidden / (1 - MOMENTUM**4)
        np.testing.assert_allclose(ema["average"], average, rtol=1e-6)
        assert old["counter"] == 3


def test_a_norm_without_affine_part_is_in_the_state_alone():
    _, state = trees()
    model = from_haiku(norm(use_bias=False, use_scale=False), {}, state)
    assert to_haiku(model, {}, state)[0] == {}
    with pytest.raises(ValueError, match="there is none of these there"):
        from_haiku(norm(use_bias=False, use_scale=False), {}, {})
