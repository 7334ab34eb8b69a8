# SPDX-License-Identifier: Apache-2.0
"""`compute_moments` and `merge_moments` against the oracle."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

import jaxbn
from tests import cases, oracle


def compute(case, data):
    mask = None if data.mask is None else jnp.asarray(data.mask)
    return jaxbn.compute_moments(jnp.asarray(data.x), axis=case.axis, mask=mask)


def test_values(case):
    data = cases.make(case)
    moments = jax.jit(lambda: compute(case, data))()
    ref = cases.reference(case, data)
    expected, tolerance = ref.forward(), cases.Tolerance.of(case, ref)
    size = np.sqrt(expected.var) + np.abs(expected.mean)
    tolerance.check(moments.mean, expected.mean, size, what="mean")
    tolerance.check(moments.var, expected.var, what="var")
    np.testing.assert_array_equal(np.float32(moments.count), np.float32(expected.count))
    working = jnp.float64 if case.dtype == "float64" else jnp.float32
    chex.assert_type(list(moments), working)


def test_gradient(case):
    data = cases.make(case)
    mask = None if data.mask is None else jnp.asarray(data.mask)

    def loss(x):
        moments = jaxbn.compute_moments(x, axis=case.axis, mask=mask)
        return jnp.sum(data.dmean * moments.mean) + jnp.sum(data.dvar * moments.var)

    ref = cases.reference(case, data)
    gradients, sizes = ref.backward(np.zeros_like(data.dy), data.dmean, data.dvar)
    got = jax.jit(jax.grad(loss))(jnp.asarray(data.x))
    cases.Tolerance.of(case, ref).check(got, gradients.x, sizes.x, what="dx")


class TestCompute(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_what_is_left_out_is_not_there(self):
        x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
        padded = jnp.asarray(np.concatenate([np.full((2, 3), np.nan, np.float32), x]))
        compute = self.variant(jaxbn.compute_moments)
        got = compute(padded, mask=jnp.arange(8) >= 2)
        chex.assert_trees_all_close(got, compute(jnp.asarray(x)), rtol=1e-6)


def test_no_gradient_reaches_the_weights():
    x = jnp.asarray([[1.0], [2.0], [4.0]])
    slope = jax.grad(lambda w: jaxbn.compute_moments(x, mask=w).mean.sum())
    assert not np.any(slope(jnp.asarray([1.0, 2.0, 0.5])))


def parts(rng, sizes, mean=0.0):
    """Shards of one array, their stacked moments, and the oracle of the whole."""
    shards = [
        (mean + k + rng.normal(size=(n, 3))).astype(np.float32)
        for k, n in enumerate(sizes)
    ]
    moments = [jaxbn.compute_moments(jnp.asarray(s)) for s in shards]
    whole = oracle.BatchNorm(np.concatenate(shards)).forward()
    return jax.tree.map(lambda *m: jnp.stack(m), *moments), whole


class TestMerge(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_is_the_moments_of_the_whole(self):
        for sizes, mean in (((4, 1), 0), ((3, 0, 7, 2), 0), ((64, 8, 9), 10)):
            with self.subTest(sizes=sizes):
                stacked, whole = parts(np.random.default_rng(0), sizes, mean)
                got = self.variant(jaxbn.merge_moments)(stacked)
                np.testing.assert_allclose(got.mean, whole.mean, rtol=2e-7, atol=1e-6)
                np.testing.assert_allclose(got.var, whole.var, rtol=1e-5)
                assert got.count == sum(sizes)


def test_merge_along_another_axis(rng):
    first, whole_first = parts(rng, (2, 5))
    second, whole_second = parts(rng, (4, 0))
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b], 1), first, second)
    got = jaxbn.merge_moments(stacked, axis=0)
    chex.assert_trees_all_equal(got, jaxbn.merge_moments(stacked, axis=-2))
    for k, whole in enumerate((whole_first, whole_second)):
        np.testing.assert_allclose(got.mean[k], whole.mean, rtol=1e-5)
        np.testing.assert_allclose(got.var[k], whole.var, rtol=1e-5)
        assert got.count[k] == whole.count


def test_merge_does_not_look_at_what_has_no_count():
    poisoned = jaxbn.Moments(
        mean=jnp.asarray([[1.0], [jnp.nan], [3.0]]),
        var=jnp.asarray([[0.0], [jnp.inf], [0.0]]),
        count=jnp.asarray([1.0, 0.0, 1.0]),
    )
    merged = jaxbn.merge_moments(poisoned)
    assert (merged.mean.item(), merged.var.item()) == (2.0, 1.0)
    gradient = jax.grad(lambda m: jaxbn.merge_moments(m).var.sum())(poisoned)
    assert np.all(np.isfinite(gradient.mean)) and not np.any(gradient.var[1])


def test_merge_of_nothing_is_zero():
    nothing = jaxbn.Moments(jnp.full((2, 3), jnp.nan), jnp.ones((2, 3)), jnp.zeros(2))
    for value in jaxbn.merge_moments(nothing):
        np.testing.assert_array_equal(value, 0)


def test_merge_is_differentiable(x64, rng):
    stacked = jaxbn.Moments(
        *(jnp.asarray(rng.normal(size=(4, 2))) for _ in range(2)),
        count=jnp.asarray([1.0, 5.0, 0.0, 2.0]),
    )

    def loss(mean, var):
        merged = jaxbn.merge_moments(stacked._replace(mean=mean, var=var))
        return jnp.sum(merged.var**2) + jnp.sum(merged.mean**3)

    jax.test_util.check_grads(jax.jit(loss), stacked[:2], order=2)


def test_merge_of_no_parts_is_nothing():
    nothing = jaxbn.Moments(jnp.ones((0, 3)), jnp.ones((0, 3)), jnp.ones(0))
    merged = jaxbn.merge_moments(nothing)
    assert merged.mean.tolist() == merged.var.tolist() == [0, 0, 0]
    assert merged.count == 0
