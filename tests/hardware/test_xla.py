# SPDX-License-Identifier: Apache-2.0
"""The spellings in `_core/xla.py` that are chosen for TPU and GPU, against plain JAX.

`make check-hardware` runs these where libtpu and the CUDA plugin can be installed. A
test that fails here says that the compiler no longer needs the spelling.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxbn
from jaxbn._core import xla
from tests.hardware.targets import gpu_bytes, tpu_cycles

pytestmark = pytest.mark.hardware

WIDTH = 128
X = jax.ShapeDtypeStruct((32, 14, 14, WIDTH), jnp.bfloat16)
C = jax.ShapeDtypeStruct((WIDTH,), jnp.float32)


def kernel(size):
    return jax.ShapeDtypeStruct((size, size, WIDTH, WIDTH), jnp.bfloat16)


def convolve(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


def gradients(network):
    """All gradients of a network of `x`, kernel, scale and bias."""
    return lambda dy, *arguments: jax.vjp(network, *arguments)[1](dy)


def between_convolutions(x, kernel, scale, bias):
    """A norm with ReLU and residual, whose input and output are convolutions'."""
    y = convolve(x, kernel)
    y, _ = jaxbn.batch_norm(y, scale, bias, residual=x, activation=jax.nn.relu)
    return convolve(y, kernel)


def blocks(x, kernel, scale, bias):
    """Two residual blocks."""
    for _ in range(2):
        y = convolve(x, kernel)
        y, _ = jaxbn.batch_norm(y, scale, bias, activation=jax.nn.relu)
        y = convolve(y, kernel)
        x, _ = jaxbn.batch_norm(y, scale, bias, residual=x, activation=jax.nn.relu)
    return x


@pytest.mark.parametrize(
    ("spelling", "plain"),
    [
        ("needs_no_pivot", lambda dtype: False),
        (
            "select_narrow",
            lambda active, tangent, dtype: jnp.where(
                active, tangent, jnp.zeros((), tangent.dtype)
            ).astype(dtype),
        ),
        ("keep_output", lax.optimization_barrier),  # a barrier everywhere
    ],
)
def test_saves_cycles_on_tpu(monkeypatch, spelling, plain):
    step, shapes = gradients(between_convolutions), (X, X, kernel(1), C, C)
    with_it = tpu_cycles(step, *shapes)
    monkeypatch.setattr(xla, spelling, plain)
    without = tpu_cycles(step, *shapes)
    assert with_it < without


def test_keeping_the_output_saves_bytes_on_gpu(monkeypatch):
    step, shapes = gradients(blocks), (X, X, kernel(3), C, C)
    with_it = gpu_bytes(step, *shapes)
    monkeypatch.setattr(xla, "keep_output", lambda y: y)
    without = gpu_bytes(step, *shapes)
    assert with_it < without
