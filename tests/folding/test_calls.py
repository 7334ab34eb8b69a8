# SPDX-License-Identifier: Apache-2.0
"""Calls that stay as exporters know them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn._folding.calls import ACTIVATIONS
from jaxbn._folding.graph import trace
from tests.folding.networks import draw

PARAMS = {"b": np.ones(2, np.float32)}


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_called_again_by_name(name, rng, monkeypatch):
    """As an exporter finds them that has put its own in their place."""
    x, function = draw(rng, 3, 2), getattr(jax.nn, name)
    graph = trace(lambda p, x: function(x) + p["b"][None], PARAMS, ["b"], [x])
    call, _ = graph.moving
    assert call.activation == call.title == name
    np.testing.assert_array_equal(call.run([x])[0], function(x))
    monkeypatch.setattr(jax.nn, name, lambda x: "theirs")
    assert call.run([x]) == ["theirs"]


def test_other_functions_of_that_name_are_not(rng):
    @jax.jit
    def relu(x):
        return x * jnp.tanh(x)

    def network(p, x):
        return jax.nn.leaky_relu(relu(x), 0.5) + p["b"][None]

    graph = trace(network, PARAMS, ["b"], [draw(rng, 3, 2)])
    assert not any(operation.activation for operation in graph.moving)


def test_products_with_a_matrix_are_called_as_matmul(rng, monkeypatch):
    """So that jax2onnx writes `MatMul`, to which ONNX Runtime adds a bias."""
    x, params = draw(rng, 4, 3), {"a": draw(rng, 3, 2), "b": draw(rng, 4, 2)}

    def network(p, x):
        each = jnp.broadcast_to(x, (5, 4, 3))
        wide = jax.lax.dot(x, p["a"], precision="highest")
        other = jnp.einsum("bc,bd->cd", x, p["b"])
        return x @ p["a"], each @ p["a"], wide, p["a"].T @ x.T, other

    graph = trace(network, params, ["a", "b"], [x])
    products = [op for op in graph.moving if op.name == "dot_general"]
    calls = []

    def matmul(left, right, *, precision):
        calls.append((left.ndim, precision))
        return "theirs"

    shapes = [[operand.aval for operand in op.operands] for op in products]
    drawn = [[draw(rng, *aval.shape) for aval in avals] for avals in shapes]
    before = [op.run(operands) for op, operands in zip(products, drawn, strict=True)]
    monkeypatch.setattr(jnp, "matmul", matmul)
    after = [op.run(operands) for op, operands in zip(products, drawn, strict=True)]
    assert [one == ["theirs"] for one in after] == [True, False, True, True, True]
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert calls == [(2, highest), (2, None), (3, None), (2, None)]
    for i in (0, 2, 3, 4):
        (y,), (left, right) = before[i], drawn[i]
        np.testing.assert_allclose(y, left @ right, rtol=1e-5, atol=1e-5)
