# SPDX-License-Identifier: Apache-2.0
"""`normalize` with the oracle's statistics is the oracle's output."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

import jaxbn
from tests import cases
from tests.cases import CASES, Case


def arguments(case: Case, data: cases.Data):
    """x, mean, var, scale, bias; the statistics are the oracle's."""
    expected = cases.reference(case, data).forward()
    dtype = jnp.float64 if case.dtype == "float64" else jnp.float32
    x, scale, bias = cases.arrays(data)
    return (
        x,
        jnp.asarray(expected.mean, dtype),
        jnp.asarray(expected.var, dtype),
        scale,
        bias,
    )


def check(case: Case, data: cases.Data, y) -> None:
    ref = cases.reference(case, data)
    tolerance = cases.Tolerance.of(case, ref)
    # The given mean is rounded: half a unit of it, as seen by the output.
    rounded = np.abs(ref.scale) * ref.rho * np.abs(ref.mean)
    sizes = ref.output_sizes() + ref.matrix.unfold(
        np.broadcast_to(rounded, ref.x.shape)
    )
    tolerance.check(y, ref.forward().y, sizes, what="y")
    assert y.dtype == data.x.dtype


class TestNormalize(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_all_cases(self):
        for case in CASES:
            with self.subTest(case.name), jax.enable_x64(case.dtype == "float64"):
                data = cases.make(case)
                options = cases.options(case, data)
                function = self.variant(lambda *a, o=options: jaxbn.normalize(*a, **o))
                check(case, data, function(*arguments(case, data)))


def test_gradients(case):
    """With the statistics given, dx is only the first of its three terms."""
    data = cases.make(case)
    x, mean, var, scale, bias = arguments(case, data)
    options = cases.options(case, data)

    def function(x, scale, bias, residual):
        options["residual"] = residual
        return jaxbn.normalize(x, mean, var, scale, bias, **options)

    @jax.jit
    def gradients(*primals):
        return jax.vjp(function, *primals)[1](jnp.asarray(data.dy))

    dx, dscale, dbias, dresidual = gradients(x, scale, bias, options["residual"])
    cases.check_gradients(case, data, (None, None, dbias, dresidual))
    ref = cases.reference(case, data)
    expected, sizes = ref.backward(data.dy)
    tolerance = cases.Tolerance.of(case, ref)
    if dscale is not None:
        # sum(g * c) less what half a unit of the mean makes of it.
        rounded = sizes.bias * (ref.rho * np.abs(ref.mean)).reshape(sizes.bias.shape)
        tolerance.check(dscale, expected.scale, sizes.scale + rounded, what="dscale")
    gain = ref.matrix.unfold(np.broadcast_to(ref.scale * ref.rho, ref.x.shape))
    size = np.abs(gain) * sizes.residual
    tolerance.check(dx, gain * expected.residual, size, what="dx")


def test_mean_and_variance_are_differentiable(x64, rng):
    x = jnp.asarray(rng.normal(size=(5, 2)))
    mean, var = jnp.asarray([0.3, -1.0]), jnp.asarray([0.5, 2.0])
    function = jax.jit(lambda *a: jnp.tanh(jaxbn.normalize(*a)))
    jax.test_util.check_grads(function, (x, mean, var), order=2)


def test_variance_zero_without_epsilon_gives_the_bias():
    x = jnp.asarray([[2.0], [2.0]])
    y = jaxbn.normalize(
        x, jnp.array([2.0]), jnp.array([0.0]), bias=jnp.array([3.0]), epsilon=0.0
    )
    np.testing.assert_array_equal(y, [[3.0], [3.0]])
