# SPDX-License-Identifier: Apache-2.0
"""`init_running_stats` and `update_running_stats`."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxbn


def moments(mean, var, count):
    return jaxbn.Moments(jnp.asarray(mean), jnp.asarray(var), jnp.asarray(count))


@pytest.mark.parametrize("features", [3, (5, 3), 0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_init(features, dtype):
    stats = jaxbn.init_running_stats(features, dtype=dtype)
    shape = features if isinstance(features, tuple) else (features,)
    chex.assert_shape([stats.mean, stats.var], shape)
    chex.assert_type(list(stats), dtype)
    assert np.all(stats.mean == 0) and np.all(stats.var == 1)
    assert np.all(stats.count == 0)


class TestUpdate(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_moves_by_the_formula(self):
        update = self.variant(jaxbn.update_running_stats)
        stats, mean, var = jaxbn.init_running_stats(2), np.zeros(2), np.ones(2)
        rng = np.random.default_rng(0)
        for _ in range(500):
            new = rng.normal(5, 1, (2, 2)).astype(np.float32)
            stats = update(stats, moments(new[0], new[1], 8.0))
            mean = 0.99 * mean + 0.01 * new[0].astype(np.float64)
            var = 0.99 * var + 0.01 * new[1].astype(np.float64)
        np.testing.assert_allclose(stats.mean, mean, rtol=5e-6)
        np.testing.assert_allclose(stats.var, var, rtol=5e-6)
        assert np.all(stats.count == 500)


def test_plain_average():
    stats = jaxbn.init_running_stats(1)
    for value in (3.0, 5.0, 10.0):
        stats = jaxbn.update_running_stats(
            stats, moments([value], [value], 4.0), momentum=None
        )
    np.testing.assert_allclose(stats.mean, [6.0], rtol=1e-6)
    np.testing.assert_allclose(stats.var, [6.0], rtol=1e-6)


@pytest.mark.parametrize(("count", "factor"), [(4.0, 4 / 3), (2.0, 2.0), (1.0, 1.0)])
def test_unbiased(count, factor):
    stats = jaxbn.update_running_stats(
        jaxbn.init_running_stats(1),
        moments([0.0], [3.0], count),
        momentum=0.0,
        unbiased=True,
    )
    np.testing.assert_allclose(stats.var, [3 * factor], rtol=1e-6)


def test_a_batch_in_which_nothing_counts_changes_nothing():
    stats = jaxbn.RunningStats(jnp.array([2.0]), jnp.array([3.0]), jnp.array(7.0))
    for momentum in (0.9, None):
        new = jaxbn.update_running_stats(
            stats, moments([jnp.nan], [0.0], 0.0), momentum=momentum
        )
        chex.assert_trees_all_equal(new, stats)


def test_what_is_not_finite_is_not_stored():
    stats = jaxbn.init_running_stats(3)
    new = jaxbn.update_running_stats(
        stats, moments([jnp.nan, 1.0, 1.0], [1.0, jnp.inf, 3.0], 4.0), momentum=0.5
    )
    np.testing.assert_array_equal(new.mean, [0.0, 0.0, 0.5])
    np.testing.assert_array_equal(new.var, [1.0, 1.0, 2.0])


def test_no_gradient_flows():
    def loss(mean):
        batch = moments(mean, [1.0], 4.0)
        return jaxbn.update_running_stats(jaxbn.init_running_stats(1), batch).mean.sum()

    assert jax.grad(loss)(jnp.asarray([2.0])) == 0


def test_momentum_may_be_traced():
    stats, batch = jaxbn.init_running_stats(1), moments([2.0], [1.0], 4.0)
    update = jax.jit(lambda m: jaxbn.update_running_stats(stats, batch, momentum=m))
    np.testing.assert_allclose(update(0.25).mean, [1.5])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_is_the_carry_of_a_scan_whatever_the_input(x64, dtype):
    batches = jnp.ones((3, 4, 2), dtype)

    def step(stats, x):
        return jaxbn.update_running_stats(stats, jaxbn.compute_moments(x)), None

    stats, _ = jax.lax.scan(step, jaxbn.init_running_stats(2), batches)
    chex.assert_type(list(stats), jnp.float32)
    assert np.all(stats.count == 3)


@pytest.mark.parametrize("options", [{"debias": True}, {"momentum": None}])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_stored_is_not_counted_feature_by_feature(options, bad):
    stats = jaxbn.init_running_stats(2)
    for x in ([[bad, 0.0], [1.0, 2.0]], [[3.0, 4.0], [7.0, 6.0]]):
        moments = jaxbn.compute_moments(jnp.asarray(x))
        stats = jaxbn.update_running_stats(stats, moments, **options)
    np.testing.assert_array_equal(stats.count, [1, 2])
    np.testing.assert_allclose(stats.mean[0], 5, rtol=1e-6)
    np.testing.assert_allclose(stats.var[0], 4, rtol=1e-6)


def test_one_count_for_all_features_is_kept():
    """As statistics of version 0.1 have it."""
    stats = jaxbn.init_running_stats(2)._replace(count=jnp.zeros(()))
    for momentum in (0.9, None):
        batch = moments([1.0, 2.0], [1.0, 1.0], 4.0)
        new = jaxbn.update_running_stats(stats, batch, momentum=momentum)
        assert new.count.shape == () and new.count == 1


def test_records_go_through_export():
    def step(stats, x):
        return jaxbn.update_running_stats(stats, jaxbn.batch_norm(x)[1])

    x = jnp.asarray([[1.0, 2.0], [3.0, 8.0]])
    arguments = jaxbn.init_running_stats(2), x
    platforms = ("cpu", "cuda", "tpu")
    exported = export.export(jax.jit(step), platforms=platforms)(*arguments)
    again = export.deserialize(exported.serialize()).call(*arguments)
    assert isinstance(again, jaxbn.RunningStats)
    chex.assert_trees_all_close(again, step(*arguments))
