# SPDX-License-Identifier: Apache-2.0
"""An epsilon that is traced: the same values, and a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbn
from tests.shards import MODES, mapped

X = np.random.default_rng(0).normal(2, 0.5, (8, 3, 4)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(8, 3, 4)).astype(np.float32)
STATS = jaxbn.RunningStats(jnp.zeros(4), jnp.ones(4), jnp.ones(4))
VECTORS = jnp.linspace(0.5, 2.0, 4), jnp.linspace(-1.0, 1.0, 4)
NORMS = {
    "plain": lambda x, e: jaxbn.batch_norm(x, epsilon=e)[0],
    "affine_relu": lambda x, e: jaxbn.batch_norm(
        x, *VECTORS, epsilon=e, activation=jax.nn.relu
    )[0],
    "masked": lambda x, e: jaxbn.batch_norm(x, epsilon=e, mask=x > 1.5)[0],
    "virtual": lambda x, e: jaxbn.batch_norm(x, epsilon=e, virtual_batch_size=2)[0],
    "renorm": lambda x, e: jaxbn.batch_renorm(x, STATS, epsilon=e, max_scale=1.1)[0],
    "inference": lambda x, e: jaxbn.normalize(x, *STATS[:2], *VECTORS, epsilon=e),
}


def loss(norm, x, epsilon):
    return jnp.sum(norm(jnp.asarray(x), epsilon) * WEIGHTS.astype(x.dtype))


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_same_values(norm):
    traced = jax.jit(norm)(jnp.asarray(X), 0.1)
    np.testing.assert_allclose(traced, norm(jnp.asarray(X), 0.1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_gradient(norm, x64):
    """By central differences in float64; renorm's corrections have none."""
    x = X.astype(np.float64)
    slope = jax.grad(loss, argnums=2)(norm, x, 0.1)
    both = [loss(norm, x, 0.1 + step) for step in (1e-5, -1e-5)]
    expected = (both[0] - both[1]) / 2e-5
    if norm is NORMS["renorm"]:
        r = jnp.clip(jnp.sqrt(x.var((0, 1)) + 0.1) / jnp.sqrt(1.1), 1 / 1.1, 1.1)
        d = jnp.clip(x.mean((0, 1)) / jnp.sqrt(1.1), -5, 5)

        def fixed(x, epsilon):
            return jaxbn.batch_norm(x, r, d, epsilon=epsilon)[0]

        expected = jax.grad(loss, argnums=2)(fixed, x, 0.1)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_gradient_of_shards(mode):
    """Taken inside: each shard's part, or, checked by `shard_map`, the whole."""

    def local(shard, epsilon):
        def total(epsilon):
            y, _ = jaxbn.batch_norm(shard["x"], epsilon=epsilon, axis_name="i")
            return jnp.sum(y * shard["weights"])

        return jax.grad(total)(epsilon)

    pair = (jnp.asarray(a[:, None, 0]) for a in (X, WEIGHTS))
    shards = dict(zip(("x", "weights"), pair, strict=True))
    slopes = np.asarray(mapped(mode, local, 8)(shards, jnp.float32(0.1)))

    def total(epsilon):
        y, _ = jaxbn.batch_norm(jnp.asarray(X[:, 0]), epsilon=epsilon)
        return jnp.sum(y * WEIGHTS[:, 0])

    whole = jax.grad(total)(0.1)
    complete = slopes[0] if mode == "shard_map" else np.sum(slopes)
    np.testing.assert_allclose(complete, whole, rtol=1e-4)


def test_complex(x64):
    x = (X + 1j * X[::-1]).astype(np.complex128)

    def function(epsilon):
        y, _ = jaxbn.batch_norm(jnp.asarray(x), epsilon=epsilon)
        return jnp.sum(y.real * WEIGHTS.astype(np.float64))

    both = [function(0.1 + step) for step in (1e-5, -1e-5)]
    np.testing.assert_allclose(
        jax.grad(function)(0.1), (both[0] - both[1]) / 2e-5, rtol=1e-6
    )
