# SPDX-License-Identifier: Apache-2.0
"""The oracle against central differences and against NumPy: who guards the guard."""

import numpy as np
import pytest

from tests import oracle


@pytest.mark.parametrize("activation", oracle.ACTIVATIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_backward_is_the_slope_of_forward(rng, activation, weighted):
    x, r, dy = rng.normal(size=(3, 5, 2, 3))
    scale, bias, dmean, dvar = rng.normal(size=(4, 3))
    mask = np.array([1.0, 0.0, 0.5, 2.0, 1.5]) if weighted else None

    def run(x=x, scale=scale, bias=bias, r=r):
        return oracle.BatchNorm(
            x, scale, bias, mask=mask, residual=r, activation=activation, epsilon=0.1
        )

    def loss(**changed):
        y, mean, var, _ = run(**changed).forward()
        return (dy * y).sum() + (dmean * mean).sum() + (dvar * var).sum()

    gradients, _ = run().backward(dy, dmean, dvar)
    points = (("x", x), ("scale", scale), ("bias", bias), ("r", r))
    for (name, at), gradient in zip(points, gradients, strict=True):
        expected = oracle.numerical_dx(at, lambda v, name=name: loss(**{name: v}))
        np.testing.assert_allclose(gradient, expected, atol=1e-8, err_msg=name)


def test_forward_is_numpy(rng):
    x = rng.normal(size=(4, 3, 5, 2))
    got = oracle.BatchNorm(x, axis=(1, -1), epsilon=0.0).forward()
    mean, var = x.mean((0, 2), keepdims=True), x.var((0, 2), keepdims=True)
    np.testing.assert_allclose(got.y, (x - mean) / np.sqrt(var), rtol=1e-12)
    np.testing.assert_allclose(got.mean, mean[0, :, 0, :], rtol=1e-12)
    np.testing.assert_allclose(got.var, var[0, :, 0, :], rtol=1e-12)
    assert got.count == 20
