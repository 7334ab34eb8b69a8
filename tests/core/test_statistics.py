# SPDX-License-Identifier: Apache-2.0
"""What is hard about a mean and a variance: large means, constants, overflow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbn
from jaxbn._core.layout import Layout
from jaxbn._core.statistics import _by_double_sums
from tests import oracle


@pytest.mark.parametrize("ratio", [1e0, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("rows", [2, 64, 4096, 262144])
def test_variance_is_right_at_any_mean(rng, ratio, rows):
    x = (ratio + rng.normal(size=(rows, 8))).astype(np.float32)
    var = jax.jit(jaxbn.compute_moments)(jnp.asarray(x)).var
    np.testing.assert_allclose(var, x.astype(np.float64).var(0), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 17.7, -1e-30, 1e15, 3e38])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_variance_of_a_constant_is_never_negative_nor_nan(value, dtype):
    x = jnp.full((1000, 2), value, dtype)
    moments = jax.jit(jaxbn.compute_moments)(x)
    assert np.all(np.asarray(moments.var) >= 0)
    if dtype == jnp.float32:
        np.testing.assert_array_equal(moments.var, 0)
        np.testing.assert_allclose(moments.mean, x[0], rtol=2e-7)


def test_squares_that_overflow_give_infinity_not_nan():
    x = jnp.asarray([[1e30], [-1e30]])
    assert jaxbn.compute_moments(x).var.item() == np.inf


def test_nan_that_counts_is_not_hidden():
    moments = jaxbn.compute_moments(jnp.asarray([[1.0, jnp.nan], [2.0, 1.0]]))
    np.testing.assert_array_equal(np.isnan(moments.mean), [False, True])
    np.testing.assert_array_equal(np.isnan(moments.var), [False, True])


@pytest.mark.parametrize("ratio", [1e2, 1e4])
def test_output_is_right_at_any_mean(rng, ratio):
    """A float32 mean alone would cost the output 5e-4 at 1e4."""
    x = (ratio + rng.normal(size=(4096, 8))).astype(np.float32)
    exact = x.astype(np.float64)
    expected = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    y, _ = jax.jit(jaxbn.batch_norm)(jnp.asarray(x))
    np.testing.assert_allclose(y, expected, atol=5e-6)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("position", [0, 1, 2048, -1])
@pytest.mark.parametrize("ratio", [0.0, 4.9, 1e2, 1e4])
def test_one_outlier_anywhere_does_no_harm(rng, ratio, position, size):
    x = rng.normal(ratio, 1, (4096, 4)).astype(np.float32)
    x[position] = size
    var = jax.jit(jaxbn.compute_moments)(jnp.asarray(x)).var
    np.testing.assert_allclose(var, x.astype(np.float64).var(0), rtol=1e-5)


@pytest.mark.parametrize("order", ["drawn", "rising", "falling"])
@pytest.mark.parametrize("ratio", [0.0, 4.9, 1e4])
def test_four_million_rows_in_any_order(rng, ratio, order):
    x = rng.normal(ratio, 1, 4_000_000).astype(np.float32)
    x = {"drawn": x, "rising": np.sort(x), "falling": np.sort(x)[::-1]}[order]
    moments = jax.jit(jaxbn.compute_moments)(jnp.asarray(x[:, None]))
    np.testing.assert_allclose(
        moments.mean, x.mean(dtype=np.float64), rtol=1e-6, atol=1e-5
    )
    np.testing.assert_allclose(moments.var, x.var(dtype=np.float64), rtol=1e-5)


@pytest.mark.parametrize("ratio", [1e2, 1e4])
def test_bfloat16_loses_nothing_either(rng, ratio):
    x = jnp.asarray(rng.normal(ratio, 1, (4096, 4)), jnp.bfloat16)
    var = jax.jit(jaxbn.compute_moments)(x).var
    np.testing.assert_allclose(var, np.asarray(x, np.float64).var(0), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_double_sums_lose_nothing(rng, dtype, masked):
    """Those for NVIDIA GPUs, on the CPU."""
    x = rng.normal(1e4, 1, (4096, 4))
    x[0] = 1e6
    x = jnp.asarray(x, dtype)
    weights = jnp.asarray(rng.uniform(0, 1, (4096, 1)), jnp.float32) if masked else None
    layout = Layout(x.shape, (1,))
    sums = jax.jit(functools.partial(_by_double_sums, segments=None, layout=layout))
    expected = oracle.BatchNorm(
        np.asarray(x, np.float64), mask=None if weights is None else weights[:, 0]
    ).forward()
    found = sums(x, weights)
    np.testing.assert_allclose(found.var, expected.var, rtol=1e-6)
    mean = np.asarray(found.anchor, np.float64) + np.asarray(found.shift)
    np.testing.assert_allclose(mean, expected.mean, rtol=1e-12)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_numbers_are_finite(sign):
    largest = sign * jnp.finfo(jnp.float32).max
    y, moments = jaxbn.batch_norm(jnp.full((4, 2), largest))
    assert np.all(moments.mean == largest) and not np.any(moments.var)
    assert not np.any(y)


def test_a_mean_whose_sum_overflows():
    moments = jaxbn.compute_moments(jnp.asarray([[-3e38], [3e38], [3e38]]))
    np.testing.assert_allclose(moments.mean, 1e38, rtol=1e-6)
    assert moments.var == np.inf


@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
@pytest.mark.parametrize("deviation", [1e-15, 1e-13, 1.0, 1e13, 1e15])
def test_gradient_at_any_deviation(rng, deviation, epsilon):
    x = (deviation * rng.normal(1, 1, (64, 3))).astype(np.float32)
    dy = rng.normal(size=x.shape).astype(np.float32)

    def norm(x):
        return jaxbn.batch_norm(x, epsilon=epsilon)[0]

    (got,) = jax.jit(lambda x, dy: jax.vjp(norm, x)[1](dy))(x, dy)
    ref = oracle.BatchNorm(x, epsilon=epsilon)
    expected = ref.backward(dy)[0].x
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.max(np.abs(expected)))
