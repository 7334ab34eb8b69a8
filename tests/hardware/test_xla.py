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
from experiments.hardware import hlo
from experiments.hardware.programs import compiled_for
from experiments.hardware.targets import find
from jaxbn._core import xla
from tests.hardware.budgets import GPU, TPU

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


def on_tpu(step, shapes):
    jax.clear_caches()  # a spelling may have been replaced
    return hlo.cycles(compiled_for(find(TPU), step, shapes).as_text())


def on_gpu(step, shapes):
    jax.clear_caches()
    return hlo.traffic(compiled_for(find(GPU), step, shapes).as_text())


@pytest.mark.parametrize(
    ("spelling", "plain"),
    [
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
    with_it = on_tpu(step, shapes)
    monkeypatch.setattr(xla, spelling, plain)
    assert with_it < on_tpu(step, shapes)


def each(first, second, spread):
    return spread(first), spread(second)


@pytest.mark.parametrize(
    ("spelling", "plain"),
    [
        ("keep_output", lambda y: y),
        ("spread_together", each),
    ],
)
def test_saves_bytes_on_gpu(monkeypatch, spelling, plain):
    step, shapes = gradients(blocks), (X, X, kernel(3), C, C)
    with_it = on_gpu(step, shapes)
    monkeypatch.setattr(xla, spelling, plain)
    assert with_it < on_gpu(step, shapes)


def test_a_gpu_waits_for_no_loop(monkeypatch):
    """Which the host decides about."""
    shapes = (X, X, kernel(3), C, C)

    def loops():
        jax.clear_caches()
        program = compiled_for(find(GPU), gradients(blocks), shapes).as_text()
        return program.count(" while(")

    assert loops() == 0
    monkeypatch.setattr(xla, "where_double_is_fast", lambda _, single, *a: single(*a))
    assert loops() > 0
