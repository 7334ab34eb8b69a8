# SPDX-License-Identifier: Apache-2.0
"""The graph of a traced function."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxbn._folding.graph import Evaluation, root_of, trace
from tests.folding.networks import draw

PARAMS = {"a": np.ones((3, 2), np.float32), "b": np.ones(2, np.float32)}


def function(p, x):
    @jax.jit
    @jax.checkpoint
    def layer(x):
        return jax.nn.relu(x @ p["a"])

    unused = jnp.sin(x)
    del unused
    with jax.named_scope("outer"):
        return layer(x) + jax.jit(jax.named_scope("inner")(jnp.exp))(p["b"])[None]


def traced(x):
    return trace(function, PARAMS, ["a", "b"], [x])


def test_calls_are_opened_and_functions_with_a_derivative_stay(rng):
    graph = traced(draw(rng, 4, 3))
    assert [operation.title for operation in graph.moving] == [
        "dot_general",
        "relu",
        "add",
    ]
    (exp,) = (operation for operation in graph.operations if operation.name == "exp")
    assert exp.results[0].leaves == ("b",) and not exp.moves
    assert exp.scope.endswith("inner") and exp.scope.startswith("outer")
    assert root_of(graph.moving[-1].operands[1]) is exp.results[0]


def test_evaluation(rng):
    x = draw(rng, 4, 3)
    graph = traced(x)
    values = Evaluation(PARAMS)
    values.known[graph.inputs[0]] = x
    for operation in graph.moving:
        values.run(operation)
    np.testing.assert_array_equal(values[graph.outputs[0]], function(PARAMS, x))
