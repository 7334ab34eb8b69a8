# SPDX-License-Identifier: Apache-2.0
"""Values in double precision, and how they move along changes of axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn._folding.graph import trace
from jaxbn._folding.maps import Constants, reshaped
from tests.folding.networks import draw


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, 3, 4), (2, 12)),
        ((2, 3, 4), (6, 4)),
        ((2, 3, 4), (2, 1, 3, 4, 1)),
        ((1, 6, 1), (2, 3)),
        ((4, 6), (2, 2, 3, 2)),
        ((6, 4), (4, 6)),
        ((2, 12), (2, 3, 4)),
        ((), (1, 1)),
        ((5, 2, 3), (5, 6)),
    ],
)
def test_reshaped(before, after, rng):
    """As if it had the whole shape, for each set of axes that it depends on."""
    for which in np.ndindex((2,) * len(before)):
        shape = [n if w else 1 for n, w in zip(before, which, strict=True)]
        x = rng.normal(size=shape)
        full = np.broadcast_to(x, before).reshape(after)
        moved = reshaped(x, before, after)
        assert moved.ndim == len(after)
        np.testing.assert_array_equal(np.broadcast_to(moved, after), full)
    assert reshaped(np.ones((1,) * len(before)), before, after).size == 1


def test_values_are_those_of_jax(rng):
    """Each operation that is known here, and one that is not."""
    params = {"a": draw(rng, 3, low=0.1), "b": draw(rng, 2, 3)}

    def function(p):
        a, b = p["a"], p["b"]
        c = jnp.where(a > 1, jnp.sqrt(a), -a) * 2 + a**3 - abs(a) / 3
        d = jnp.maximum(jax.lax.rsqrt(a), jnp.exp(a)) ** c + jnp.log(a)
        e = jnp.minimum(jnp.broadcast_to(d, (2, 3)), b).T.reshape(1, 6)
        flags = ((a != 1) & (a <= 1)).astype(np.float32) - (a >= 1).astype(int)
        return e + jnp.cumsum(b).reshape(1, 6), flags

    with jax.numpy_dtype_promotion("standard"):
        graph = trace(function, params, ["a", "b"], [])
        expected = function(params)
    constants = Constants(params)
    for value, right in zip(graph.outputs, expected, strict=True):
        got = constants.full(value)
        assert got.dtype == (np.float64 if value.aval.dtype == np.float32 else np.int32)
        np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-6)


def test_narrow_floats_are_rounded_once(rng):
    params = {"a": draw(rng, 5)}
    graph = trace(lambda p: p["a"].astype(jnp.bfloat16) * 3, params, ["a"], [])
    got = Constants(params).full(graph.outputs[0])
    np.testing.assert_array_equal(got, params["a"].astype(np.float64) * 3)
