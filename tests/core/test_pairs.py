# SPDX-License-Identifier: Apache-2.0
"""Complex input: a complex mean, one variance, gradients as JAX has them."""

import chex
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

import jaxbn
import jaxbn.linen
import jaxbn.nnx
from tests import shards
from tests.layers import LAYERS, train


def draw(rng, *shape, mean=2 - 3j):
    both = rng.normal(size=(2, *shape))
    return mean + both[0] + 0.5j * both[1]


def exact(x, scale=1, bias=0, residual=0, counts=None):
    """In complex128: output, mean and variance of the rows that count."""
    x = np.asarray(x, np.complex128)
    rows = x.reshape(-1, x.shape[-1])
    rows = rows if counts is None else rows[np.asarray(counts).ravel()]
    mean, var = rows.mean(0), np.mean(np.abs(rows - rows.mean(0)) ** 2, 0)
    y = (x - mean) / np.sqrt(var + 1e-5) * scale + bias + residual
    return (y if counts is None else np.where(counts[..., None], y, 0)), mean, var


@pytest.mark.parametrize("mean", [2 - 3j, 1e4 + 1e3j])
@pytest.mark.parametrize("masked", [False, True])
def test_batch_norm(rng, masked, mean):
    x = draw(rng, 16, 5, 3, mean=mean).astype(np.complex64)
    residual = draw(rng, 16, 5, 3).astype(np.complex64)
    scale, bias = draw(rng, 2, 3).astype(np.complex64)
    counts = rng.random((16, 5)) < 0.6 if masked else None
    arrays = map(jnp.asarray, (x, scale, bias))
    mask = None if counts is None else jnp.asarray(counts)
    given = {"mask": mask, "residual": jnp.asarray(residual)}
    y, moments = jax.jit(lambda *a: jaxbn.batch_norm(*a, **given))(*arrays)
    expected, mean, var = exact(x, scale, bias, residual, counts)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(moments.var, var, rtol=2e-6)
    chex.assert_type([y, moments.mean, moments.var], ["complex64"] * 2 + ["float32"])
    assert moments.count.item() == (counts.sum() if masked else 80)


def test_gradients(rng, x64):
    """By central differences along real and imaginary part; JAX conjugates."""
    arrays = [draw(rng, 6, 2), *draw(rng, 2, 2), draw(rng, 6, 2)]
    weight = draw(rng, 6, 2)
    counts = np.arange(6) != 2

    def loss(x, scale, bias, residual):
        y, moments = jaxbn.batch_norm(
            x,
            scale,
            bias,
            mask=jnp.asarray(counts),
            residual=residual,
            activation=jnp.tanh,
        )
        extra = jnp.sum(moments.var) + jnp.sum(jnp.abs(moments.mean) ** 2)
        return jnp.sum((y * weight).real) + extra

    arrays = [jnp.asarray(a) for a in arrays]
    gradients = jax.grad(loss, (0, 1, 2, 3))(*arrays)
    for k, gradient in enumerate(gradients):
        numerical = np.zeros(arrays[k].shape, complex)
        for index in np.ndindex(arrays[k].shape):
            for direction in (1, 1j):
                step = 1e-5 * direction
                up, down = (list(arrays) for _ in range(2))
                up[k] = up[k].at[index].add(step)
                down[k] = down[k].at[index].add(-step)
                slope = (float(loss(*up)) - float(loss(*down))) / 2e-5
                numerical[index] += direction.conjugate() * slope
        np.testing.assert_allclose(gradient, numerical, atol=1e-7)


def test_real_scale_of_complex_input(rng):
    """As in Flax by default: the gradient of a real parameter is real."""
    x, scale = jnp.asarray(draw(rng, 8, 3), "complex64"), jnp.full(3, 2.0)
    gradient = jax.grad(lambda s: jnp.sum(abs(jaxbn.batch_norm(x, s)[0]) ** 2))(scale)
    chex.assert_type(gradient, jnp.float32)
    np.testing.assert_allclose(gradient, 2 * 2 * 8, rtol=1e-4)


@pytest.mark.parametrize("size", [4, 16])
def test_virtual_batches_and_shards(rng, size):
    """Within a shard of eight, and over two of them."""
    x = draw(rng, 32, 3).astype(np.complex64)

    def local(x):
        return jaxbn.batch_norm(x, virtual_batch_size=size, axis_name="i")

    y, moments = jax.jit(
        jax.shard_map(
            local, mesh=shards.mesh(), in_specs=P("i"), out_specs=(P("i"), P())
        )
    )(x)
    for k, part in enumerate(x.reshape(-1, size, 3)):
        expected, mean, var = exact(part)
        np.testing.assert_allclose(y[k * size : (k + 1) * size], expected, atol=5e-6)
        np.testing.assert_allclose(moments.mean[k], mean, rtol=2e-6)
        np.testing.assert_allclose(moments.var[k], var, rtol=2e-6)
    merged = jaxbn.merge_moments(moments)
    _, mean, var = exact(x)
    np.testing.assert_allclose(merged.mean, mean, rtol=2e-6)
    np.testing.assert_allclose(merged.var, var, rtol=2e-6)


def variables():
    return {
        "params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
        "batch_stats": {"mean": jnp.zeros(3, "complex64"), "var": jnp.ones(3)},
    }


@pytest.mark.parametrize("name", LAYERS)
def test_running_statistics_keep_their_dtype_under_scan(name, rng):
    """flax.linen flips the dtype, flax.nnx drops the imaginary part."""
    x = jnp.asarray(draw(rng, 4, 32, 3), "complex64")
    fields = {"param_dtype": jnp.complex64} if name == "nnx" else {}
    apply = LAYERS[name](3, momentum=0.5, **fields)
    stats = train(apply, variables(), x)["batch_stats"]
    chex.assert_type([stats["mean"], stats["var"]], ["complex64", "float32"])
    mean, var = 0, 1
    for batch in x:
        _, batch_mean, batch_var = exact(batch)
        mean, var = (mean + batch_mean) / 2, (var + batch_var) / 2
    np.testing.assert_allclose(stats["mean"], mean, rtol=2e-6)
    np.testing.assert_allclose(stats["var"], var, rtol=2e-6)


def test_as_flax(rng):
    """The same output in training and inference, from the same variables."""
    x = jnp.asarray(draw(rng, 32, 3), "complex64")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for use in (True, False):
            ys = [
                module(use_running_average=use, momentum=0.5).apply(
                    variables(), x, mutable=["batch_stats"]
                )[0]
                for module in (jaxbn.linen.BatchNorm, flax.linen.BatchNorm)
            ]
            np.testing.assert_allclose(*ys, atol=1e-5)


def test_modules_start_with_a_complex_mean(rng):
    x = jnp.asarray(draw(rng, 32, 3), "complex64")
    norm = jaxbn.linen.BatchNorm(use_running_average=True)
    stats = norm.init(jax.random.key(0), x)["batch_stats"]
    chex.assert_type([stats["mean"], stats["var"]], ["complex64", "float32"])
    for fields in ({"dtype": jnp.complex64}, {"param_dtype": jnp.complex64}):
        assert jaxbn.nnx.BatchNorm(3, rngs=nnx.Rngs(0), **fields).mean.dtype == x.dtype


@pytest.mark.usefixtures("without_type_checker")
def test_what_is_not_defined_is_refused(rng):
    x = jnp.asarray(draw(rng, 1, 3), "complex64")
    stats = jaxbn.init_running_stats(3)
    with pytest.raises(TypeError, match="batch renorm is not defined for complex"):
        jaxbn.batch_renorm(x, stats)
    with pytest.raises(ValueError, match=r"got shape \(1, 3\) with `axis` \(1,\)"):
        jaxbn.batch_norm(x)
    with pytest.raises(TypeError, match="`dtype` must be a complex floating-point"):
        jaxbn.normalize(x, stats.mean, stats.var, dtype=jnp.float32)
