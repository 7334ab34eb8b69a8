# SPDX-License-Identifier: Apache-2.0
"""What Flax gets wrong on one device, right here: each test shows both.

Where a test of Flax's side fails, Flax was fixed: delete that side.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbn
from jaxbn.linen import BatchNorm


def train(module, x, *, stats=None, **call):
    """One training step from initial variables; returns output and statistics."""
    features = x.shape[-1:]
    variables = {
        "params": {"scale": jnp.ones(features), "bias": jnp.zeros(features)},
        "batch_stats": stats
        or {"mean": jnp.zeros(features), "var": jnp.ones(features)},
    }
    y, updates = module.apply(
        variables, x, use_running_average=False, mutable=["batch_stats"], **call
    )
    return y, updates["batch_stats"]


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Flax relies on implicit promotion."""
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


@pytest.mark.parametrize(("mean", "deviation"), [(1e4, 1.0), (100.0, 0.01)])
def test_variance_at_a_large_mean(rng, mean, deviation):  # B5
    x = (mean + deviation * rng.normal(size=(4096, 64))).astype(np.float32)
    exact = x.astype(np.float64)
    spread = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)

    def error(module):
        return np.max(np.abs(np.asarray(train(module(), jnp.asarray(x))[0]) - spread))

    assert error(nn.BatchNorm) > 1
    assert error(BatchNorm) < 1e-5


@pytest.mark.parametrize("rows", [4, 0])
def test_batch_in_which_nothing_counts(rows):  # B6
    x = jnp.ones((rows, 2))
    mask = jnp.zeros((rows, 1), bool)
    assert np.all(np.isnan(train(nn.BatchNorm(), x, mask=mask)[1]["mean"]))
    y, stats = train(BatchNorm(), x, mask=mask)
    assert not np.any(y) and not np.any(stats["mean"]) and np.all(stats["var"] == 1)


def test_axis_out_of_range():  # B11
    x = jnp.ones((2, 3, 4))
    nn.BatchNorm(use_running_average=True, axis=-4).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="`axis` must be in"):
        BatchNorm(use_running_average=True, axis=-4).init(jax.random.key(0), x)


def test_mask_of_the_batch_where_batch_and_features_are_equal(rng):  # B12
    x = jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)
    mask = jnp.asarray([True, True, True, False])
    stats = train(nn.BatchNorm(), x, mask=mask)[1]
    assert np.any(np.isnan(stats["mean"]))  # of the feature it took for masked
    _, moments = jaxbn.batch_norm(x, mask=mask)
    np.testing.assert_allclose(moments.mean, x[:3].mean(0), rtol=1e-5)


def scan(module, xs):
    stats = {"mean": jnp.zeros(2, jnp.float32), "var": jnp.ones(2, jnp.float32)}
    return jax.lax.scan(
        lambda s, x: (train(module, x, stats=s)[1], None), stats, xs
    )[0]  # fmt: skip


def test_state_keeps_its_dtype_under_scan(x64):  # B13
    xs = jnp.ones((3, 4, 2), jnp.float64)
    with pytest.raises(TypeError, match="carry"):
        scan(nn.BatchNorm(), xs)
    assert scan(BatchNorm(), xs)["mean"].dtype == jnp.float32


@pytest.mark.usefixtures("without_type_checker")
def test_complex_input_is_refused_instead_of_losing_its_imaginary_part():  # B13
    x = jnp.full((4, 2), 3 + 4j)
    stat = nnx.BatchNorm(2, rngs=nnx.Rngs(0), momentum=0.0)
    with pytest.warns(match="imaginary|complex"):
        stat(x)
    np.testing.assert_array_equal(stat.mean[...], 3.0)
    with pytest.raises(TypeError, match="mean` must be complex where the input is"):
        train(BatchNorm(), x)


@pytest.mark.parametrize("pad", [1e6, np.nan])
def test_padding_reaches_no_gradient(pad):  # B19
    x = jnp.asarray([[1.0], [2.0], [4.0], [pad]])
    mask = jnp.asarray([[True], [True], [True], [False]])

    def slopes(module):
        def loss(x, scale):
            variables = {
                "params": {"scale": scale, "bias": jnp.zeros(1)},
                "batch_stats": {"mean": jnp.zeros(1), "var": jnp.ones(1)},
            }
            y, _ = module.apply(
                variables, x, use_running_average=False, mask=mask,
                mutable=["batch_stats"],
            )  # fmt: skip
            return jnp.sum(y)

        return jax.grad(loss, argnums=(0, 1))(x, jnp.ones(1))

    assert not np.abs(slopes(nn.BatchNorm())[1]) < 1e5
    dx, dscale = slopes(BatchNorm())
    np.testing.assert_allclose(dscale, 0, atol=1e-6)
    np.testing.assert_allclose(dx, 0, atol=1e-6)


def test_output_keeps_the_dtype_of_the_input():  # B23
    x = jnp.ones((4, 2), jnp.bfloat16)
    assert train(nn.BatchNorm(), x)[0].dtype == jnp.float32
    assert train(BatchNorm(), x)[0].dtype == jnp.bfloat16


def test_batch_of_one_leaves_the_variance_alone():  # B25
    x = jnp.ones((1, 2))
    stats = None
    for _ in range(300):
        y, stats = train(nn.BatchNorm(), x, stats=stats)
    assert np.all(stats["var"] < 0.05)
    with pytest.warns(UserWarning, match="`x` has one value per feature in training"):
        ours, stats = train(BatchNorm(), x)
    np.testing.assert_array_equal(ours, y)
    assert not np.any(stats["mean"]) and np.all(stats["var"] == 1)
    with pytest.raises(ValueError, match="more than one value per feature"):
        jaxbn.batch_norm(x)
