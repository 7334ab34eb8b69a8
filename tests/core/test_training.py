# SPDX-License-Identifier: Apache-2.0
"""What reverse mode keeps between forward and backward pass, and how it is used."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbn
from tests import hlo

SHAPE = (16, 4, 4, 8)


def kept(dtype, **options):
    """The arrays that the backward pass holds, as (shape, dtype) with their number."""
    x = jnp.ones(SHAPE, dtype)
    residual = options.pop("residual", False)

    def forward(x, scale, bias, residual):
        return jaxbn.batch_norm(x, scale, bias, residual=residual, **options)[0]

    arguments = (x, jnp.ones(8), jnp.ones(8), jnp.ones(SHAPE, dtype))
    _, vjp = jax.vjp(forward, *arguments[:3], arguments[3] if residual else None)
    leaves = [leaf for leaf in jax.tree.leaves(vjp) if hasattr(leaf, "shape")]
    large = [(leaf.shape, leaf.dtype) for leaf in leaves if leaf.size > 8]
    return large, sum(leaf.shape == (8,) for leaf in leaves)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("activation", [None, jax.nn.relu, jnp.tanh])
def test_keeps_x_in_its_dtype_and_vectors(dtype, activation):
    large, vectors = kept(dtype, activation=activation)
    assert large == [(SHAPE, dtype)]
    # mean, its error, 1 / deviation; and scale and bias, which the caller has.
    assert vectors <= 5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_residual(dtype):
    assert kept(dtype, residual=True)[0] == [(SHAPE, dtype)]
    # x and the output, which the next layer keeps in any case.
    assert kept(dtype, residual=True, activation=jax.nn.relu)[0] == [(SHAPE, dtype)] * 2
    assert kept(dtype, residual=True, activation=jnp.tanh)[0] == [(SHAPE, dtype)] * 2


def test_mask_is_kept_in_its_own_size():
    mask = jnp.arange(16) < 9
    large, _ = kept(jnp.float32, mask=mask, activation=jax.nn.relu)
    assert sorted(shape for shape, _ in large) == sorted([SHAPE, (16, 1, 1, 1)])


def test_backward_takes_two_sums():
    """Over all values, of g and of g times the centered input, and no third."""

    def backward(x, scale, bias, dy):
        return jax.vjp(lambda *a: jaxbn.batch_norm(*a)[0], x, scale, bias)[1](dy)

    x, c = jnp.ones(SHAPE), jnp.ones(8)
    lowered = hlo.without_loops(jax.jit(backward).lower(x, c, c, x).as_text())
    sums = re.findall(r"stablehlo.reduce.*: \(tensor<16x4x4x8xf32>", lowered)
    assert len(sums) == 4  # two of them are the statistics of the forward pass


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.silu])
def test_equals_the_plain_composition(rng, activation):
    """Against autodiff of the formula without any rule of ours."""
    x, residual, dy = jnp.asarray(rng.normal(size=(3, 12, 5)), jnp.float32)
    scale, bias = jnp.asarray(rng.normal(size=(2, 5)), jnp.float32)

    def plain(x, scale, bias, residual):
        mean = x.mean(0, keepdims=True)
        var = ((x - mean) ** 2).mean(0, keepdims=True)
        y = (x - mean) / jnp.sqrt(var + 1e-5) * scale[None] + bias[None] + residual
        return activation(y)

    def ours(x, scale, bias, residual):
        return jaxbn.batch_norm(
            x, scale, bias, residual=residual, activation=activation
        )[0]

    arguments = (x, scale, bias, residual)
    expected = jax.jit(lambda *a: jax.vjp(plain, *a)[1](dy))(*arguments)
    got = jax.jit(lambda *a: jax.vjp(ours, *a)[1](dy))(*arguments)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
