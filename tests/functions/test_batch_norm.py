# SPDX-License-Identifier: Apache-2.0
"""`batch_norm` in every case against the oracle: forward, reverse and forward mode."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbn
from tests import cases
from tests.cases import CASES, Case


def run(case: Case, data: cases.Data):
    """batch_norm of the case as a function of its differentiable arguments."""
    options = cases.options(case, data)

    def function(x, scale, bias, residual):
        options["residual"] = residual
        return jaxbn.batch_norm(x, scale, bias, **options)

    return function, (*cases.arrays(data), options["residual"])


def cotangents(data: cases.Data, moments: jaxbn.Moments):
    """Of the output and of the moments."""
    return jnp.asarray(data.dy), jaxbn.Moments(
        jnp.asarray(data.dmean), jnp.asarray(data.dvar), jnp.zeros_like(moments.count)
    )


class TestVariants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_all_cases(self):
        for case in CASES:
            with self.subTest(case.name), jax.enable_x64(case.dtype == "float64"):
                data = cases.make(case)
                function, arguments = run(case, data)
                y, moments = self.variant(function)(*arguments)
                cases.check_forward(case, data, y, moments)


def test_reverse_mode(case):
    data = cases.make(case)
    function, arguments = run(case, data)

    @jax.jit
    def gradients(*arguments):
        (_, moments), vjp = jax.vjp(function, *arguments)
        return vjp(cotangents(data, moments))

    cases.check_gradients(case, data, gradients(*arguments))


def test_forward_mode_is_the_transpose_of_reverse_mode(case):
    data = cases.make(case)
    function, arguments = run(case, data)
    rng = np.random.default_rng(0)
    tangents = jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape)).astype(a.dtype), arguments
    )
    (y, moments), (y_dot, moments_dot) = jax.jit(lambda a, t: jax.jvp(function, a, t))(
        arguments, tangents
    )
    cases.check_forward(case, data, y, moments)
    dy, dmoments = cotangents(data, moments)
    # Over exactly what the oracle calls the gradient: <dy, y_dot> = <dx, x_dot>.
    ref = cases.reference(case, data)
    gradients, sizes = ref.backward(data.dy, data.dmean, data.dvar)
    left = sum(
        np.sum(np.asarray(a, np.float64) * np.asarray(b, np.float64))
        for a, b in zip((dy, *dmoments), (y_dot, *moments_dot), strict=True)
    )
    right = size = 0.0
    for g, s, t in zip(gradients, sizes, tangents, strict=True):
        if t is not None:
            right += np.sum(g * np.asarray(t, np.float64))
            size += np.sum(s * np.abs(np.asarray(t, np.float64)))
    tolerance = cases.Tolerance.of(case, ref)
    rounding = cases.unit(y.dtype) * np.sum(np.abs(np.asarray(dy * y_dot, np.float64)))
    tolerance.check(
        left, right, size + rounding / tolerance.working, what="<dy, y_dot>"
    )


def test_hessian_is_the_slope_of_the_gradient(x64, rng):
    x = jnp.asarray(rng.normal(size=(4, 2)))
    weight = jnp.asarray(rng.normal(size=(4, 2)))
    mask = jnp.asarray([1.0, 0.5, 0.0, 2.0])

    def loss(x):
        y, moments = jaxbn.batch_norm(x, mask=mask, activation=jnp.tanh, epsilon=0.1)
        return jnp.sum(weight * y) + jnp.sum(moments.var**2) + jnp.sum(moments.mean**3)

    step = 1e-6
    hessian = jax.jit(jax.hessian(loss))(x)
    gradient = jax.jit(jax.grad(loss))
    for index in np.ndindex(x.shape):
        move = jnp.zeros_like(x).at[index].set(step)
        slope = (gradient(x + move) - gradient(x - move)) / (2 * step)
        np.testing.assert_allclose(hessian[..., *index], slope, atol=1e-8)
    reverse_twice = jax.jit(jax.jacrev(jax.grad(loss)))(x)
    np.testing.assert_allclose(reverse_twice, hessian, atol=1e-12)


def test_second_derivatives_do_not_see_what_is_left_out(x64):
    mask = jnp.asarray([True, True, True, False])
    clean = jnp.asarray([[1.0], [3.0], [4.0], [0.0]])

    def loss(x):
        y, moments = jaxbn.batch_norm(x, mask=mask, residual=x, activation=jnp.tanh)
        return jnp.sum(y**3) + jnp.sum(moments.var**2)

    for second in (jax.hessian(loss), jax.jacrev(jax.grad(loss))):
        second = jax.jit(second)
        got = second(clean.at[3].set(jnp.nan))
        np.testing.assert_allclose(got, second(clean))
        assert not np.any(got[3]) and not np.any(got[..., 3, 0])


def test_vmap_is_a_loop(rng):
    x = jnp.asarray(rng.normal(size=(3, 6, 2)), jnp.float32)
    mask = jnp.asarray(rng.random((3, 6)) < 0.7)

    def loss(x, mask):
        y, moments = jaxbn.batch_norm(x, mask=mask, activation=jax.nn.relu)
        return jnp.sum(y**3) + jnp.sum(moments.var)

    got = jax.jit(jax.vmap(jax.grad(loss)))(x, mask)
    gradient = jax.jit(jax.grad(loss))
    expected = [gradient(*one) for one in zip(x, mask, strict=True)]
    np.testing.assert_allclose(got, jnp.stack(expected), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtype_says_what_comes_out(dtype, rng):
    x = jnp.asarray(rng.normal(size=(64, 3)), jnp.bfloat16)
    y, moments = jaxbn.batch_norm(x, dtype=dtype)
    exact = jaxbn.batch_norm(x.astype(jnp.float32))[0]
    assert y.dtype == dtype and moments.mean.dtype == jnp.float32
    # Rounded once: a float32 output of bfloat16 input is not a bfloat16 number.
    np.testing.assert_allclose(
        y.astype(jnp.float32), exact, rtol=cases.unit(dtype), atol=1e-6
    )


def test_no_gradient_reaches_the_weights(rng):
    x = jnp.asarray(rng.normal(size=(4, 2)), jnp.float32)
    loss = lambda w: jnp.sum(jaxbn.batch_norm(x, mask=w)[0] ** 3)  # noqa: E731
    assert not np.any(jax.grad(loss)(jnp.asarray([1.0, 2.0, 0.0, 1.0])))
