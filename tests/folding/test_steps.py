# SPDX-License-Identifier: Apache-2.0
"""Which operations are steps between kernels, their maps, and the runs they form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn._folding.graph import trace
from jaxbn._folding.maps import Constants
from jaxbn._folding.steps import is_norm, is_step, map_of, runs
from tests.folding.networks import draw


def traced(function, params, x):
    return trace(function, params, [*params], [x])


MAPS = {
    "x + p": lambda p, x: x + p,
    "p + x": lambda p, x: p + x,
    "x - p": lambda p, x: x - p,
    "p - x": lambda p, x: p - x,
    "x * p": lambda p, x: x * p,
    "x / p": lambda p, x: x / p,
    "-x": lambda p, x: -x,
}


@pytest.mark.parametrize("which", MAPS)
def test_map_of(which, rng):
    params, x = {"p": draw(rng, 1, 3, low=0.5)}, draw(rng, 2, 3)
    graph = traced(lambda p, x: MAPS[which](p["p"], x), params, x)
    (operation,) = graph.moving
    assert is_step(operation)
    assert is_norm(operation) == (which in ("x * p", "x / p"))
    scale, shift = map_of(operation, Constants(params))
    expected = MAPS[which](params["p"].astype(np.float64), x.astype(np.float64))
    np.testing.assert_allclose(scale * x + shift, expected, rtol=1e-12)


def test_what_is_no_step(rng):
    params, x = {"p": draw(rng, 1, 3)}, draw(rng, 2, 3)

    def function(p, x):
        whole = x.astype(int) * 2  # no floats
        return p["p"] / x + x * x + jnp.tanh(x) + whole.astype(x.dtype)

    found = [op for op in traced(function, params, x).moving if is_step(op)]
    assert not found


def test_runs_end_where_a_value_is_used_twice(rng):
    params, x = {"p": draw(rng, 1, 3)}, draw(rng, 2, 3)

    def function(p, x):
        y = (x + p["p"]).reshape(3, 2).T * p["p"]
        return jax.nn.relu(-y) + jnp.tanh(y - 1)

    names = [[op.name for op in run] for run in runs(traced(function, params, x))]
    assert names == [
        ["add", "reshape", "transpose", "mul"],
        ["neg"],
        ["sub"],
    ]
