# SPDX-License-Identifier: Apache-2.0
"""What is hard about a mean and a variance: large means, constants, overflow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbn


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


def test_a_first_row_far_from_the_others_costs_at_most_n_units(rng):
    """The pivot is then a bad one: its distance squared is up to n variances."""
    x = rng.normal(size=(4096, 4)).astype(np.float32)
    x[0] = 1e3
    var = jax.jit(jaxbn.compute_moments)(jnp.asarray(x)).var
    rtol = len(x) * np.finfo(np.float32).eps
    np.testing.assert_allclose(var, x.astype(np.float64).var(0), rtol=rtol)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_numbers_are_finite(sign):
    largest = sign * jnp.finfo(jnp.float32).max
    y, moments = jaxbn.batch_norm(jnp.full((4, 2), largest))
    assert np.all(moments.mean == largest) and not np.any(moments.var)
    assert not np.any(y)
