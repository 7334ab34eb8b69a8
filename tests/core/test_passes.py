# SPDX-License-Identifier: Apache-2.0
"""Passes over memory in the compiled CPU program, compared with Flax's.

Each pass is one read or write of a full-size tensor. XLA decides them: a jaxlib that
fuses less fails here before anyone's training is slower.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import jaxbn
from tests import hlo

SHAPE = (32, 28, 28, 64)
X = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
C = jax.ShapeDtypeStruct(SHAPE[-1:], jnp.float32)
ACTIVATIONS = {"plain": lambda y: y, "relu": jax.nn.relu}


def ours(activation):
    def forward(x, scale, bias, *residual):
        return jaxbn.batch_norm(
            x, scale, bias, residual=residual[0] if residual else None,
            activation=None if activation == "plain" else jax.nn.relu,
        )[0]  # fmt: skip

    return forward


def flax(activation):
    def forward(x, scale, bias, *residual):
        y, _ = nn.BatchNorm(use_running_average=False).apply(
            {"params": {"scale": scale, "bias": bias},
             "batch_stats": {"mean": jnp.zeros(64), "var": jnp.ones(64)}},
            x, mutable=["batch_stats"],
        )  # fmt: skip
        return ACTIVATIONS[activation](sum(residual, y))

    return forward


def training(forward):
    """Output and all gradients, as a training step needs them."""

    def step(dy, *arguments):
        y, vjp = jax.vjp(forward, *arguments)
        return y, vjp(dy)

    return step


def count(forward, *, backward, residual=False):
    arguments = (X, C, C, X) if residual else (X, C, C)
    full = X.size
    if backward:
        return hlo.passes(training(forward), X, *arguments, full=full)
    return hlo.passes(forward, *arguments, full=full)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward(activation):
    # Two sums, then the map.
    assert count(ours(activation), backward=False) == (3, 1)
    theirs = count(flax(activation), backward=False)
    assert sum(theirs) >= 4


@pytest.mark.parametrize(
    ("activation", "budget", "flax_takes"),
    [("plain", (8, 2), (11, 4)), ("relu", (10, 3), (13, 5))],
)
def test_forward_and_backward(activation, budget, flax_takes):
    assert count(ours(activation), backward=True) == budget
    assert count(flax(activation), backward=True) == flax_takes


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_with_residual(activation):
    got = count(ours(activation), backward=True, residual=True)
    theirs = count(flax(activation), backward=True, residual=True)
    assert sum(got) <= {"plain": 13, "relu": 17}[activation]
    assert sum(got) < sum(theirs)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_virtual_batches_take_one_pass_more_at_most(activation):
    def forward(x, scale, bias):
        act = None if activation == "plain" else jax.nn.relu
        options = {"virtual_batch_size": 8, "activation": act}
        return jaxbn.batch_norm(x, scale, bias, **options)[0]

    assert count(forward, backward=False) == (3, 1)
    whole = count(ours(activation), backward=True)
    assert sum(count(forward, backward=True)) <= sum(whole) + 1


def test_the_counter_counts():
    x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    assert hlo.passes(lambda x: x + 1, x, full=x.size) == (1, 1)
    assert hlo.passes(lambda x: x[0] + 1, x, full=x.size) == (0, 0)
    assert hlo.passes(lambda x, y: x.sum() + y.sum(), x, x, full=x.size) == (2, 0)
