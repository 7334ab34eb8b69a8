# SPDX-License-Identifier: Apache-2.0
"""What Linen and NNX share: the cases, which statistics are used and updated."""

import collections

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxbn._functions import lifting
from tests import cases, oracle, shards
from tests.core.test_collective_counts import count_collectives
from tests.layers import LAYERS, start, train


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(5, 2, (16, 3)), jnp.float32)


def apply_and_variables(layer, case, data):
    ref = cases.reference(case, data)
    fields = {"axis": case.axis, "epsilon": case.epsilon, "momentum": 0.5}
    fields |= {"use_scale": case.affine, "use_bias": case.affine}
    fields["activation"] = cases.ACTIVATIONS[case.activation]
    variables = start(ref.matrix.features, affine=case.affine)
    if case.affine:
        variables["params"] = {"scale": data.scale, "bias": data.bias}
    return layer(ref.matrix.features, **fields), variables, ref


def test_training(layer, case):
    data = cases.make(case)
    apply, variables, ref = apply_and_variables(layer, case, data)
    given = cases.options(case, data)
    options = {"mask": given["mask"], "residual": given["residual"]}
    run = jax.jit(lambda v, x: apply(v, x, use_running_average=False, **options))
    y, updated = run(variables, jnp.asarray(data.x))
    cases.check_forward(case, data, y)
    expected, new = ref.forward(), updated["batch_stats"]
    tolerance = cases.Tolerance.of(case, ref)
    chex.assert_type([new["mean"], new["var"]], jnp.float32)
    if not np.any(expected.count):
        chex.assert_trees_all_equal(new, variables["batch_stats"])
        return
    tolerance = tolerance._replace(working=cases.unit(np.float32))
    tolerance.check(new["mean"], expected.mean / 2, np.abs(expected.mean) + 1, what="m")
    tolerance.check(new["var"], (1 + expected.var) / 2, what="v")


def test_inference(layer, case):
    """By mean 0 and variance 1."""
    data = cases.make(case)
    apply, variables, ref = apply_and_variables(layer, case, data)
    given = cases.options(case, data)
    options = {"mask": given["mask"], "residual": given["residual"]}
    run = jax.jit(lambda v, x: apply(v, x, use_running_average=True, **options))
    y, updated = run(variables, jnp.asarray(data.x))
    chex.assert_trees_all_equal(updated, variables)
    z = ref.x / np.sqrt(1 + case.epsilon) * ref.scale + ref.bias + ref.residual
    expected = np.where(ref.counts, ref.act(z), 0)
    sizes = np.abs(z) + 2 * np.abs(ref.bias) + 2 * np.abs(ref.residual)
    tolerance = cases.Tolerance(cases.unit(np.float32), 8.0, 1.0)
    unfold = ref.matrix.unfold
    tolerance.check(y, unfold(expected), unfold(sizes), what="y")
    assert y.dtype == data.x.dtype


@pytest.mark.parametrize("use_running_average", [True, False])
@pytest.mark.parametrize("update_stats", [True, False, None])
def test_use_and_update_are_two_choices(layer, x, use_running_average, update_stats):
    variables = start(3)
    call = {"use_running_average": use_running_average, "update_stats": update_stats}
    y, updated = layer(3, momentum=0.0)(variables, x, **call)
    batch = oracle.BatchNorm(x).forward()
    updates = not use_running_average if update_stats is None else update_stats
    if updates:
        np.testing.assert_allclose(updated["batch_stats"]["mean"], batch.mean, 1e-6)
        np.testing.assert_allclose(updated["batch_stats"]["var"], batch.var, 1e-5)
    else:
        chex.assert_trees_all_equal(updated, variables)
    used = x / np.sqrt(1 + 1e-5) if use_running_average else batch.y
    np.testing.assert_allclose(y, used, atol=2e-6)


@pytest.mark.parametrize("steps", [1, 3, 10, 100])
def test_debias_is_right_from_the_first_step(layer, rng, steps):
    """In evaluation mean 0 and deviation 1: the initial values are not mixed in."""
    batches = jnp.asarray(rng.normal(5, 2, (steps, 4096, 3)), jnp.float32)
    apply = layer(3, momentum=0.99, debias=True)
    variables = train(apply, start(3, count=True), batches)
    moments = [oracle.BatchNorm(b).forward() for b in batches]
    weights = 0.99 ** np.arange(steps)[::-1]
    weights /= weights.sum()
    mean = sum(w * m.mean for w, m in zip(weights, moments, strict=True))
    var = sum(w * m.var for w, m in zip(weights, moments, strict=True))
    np.testing.assert_allclose(variables["batch_stats"]["mean"], mean, rtol=5e-6)
    np.testing.assert_allclose(variables["batch_stats"]["var"], var, rtol=1e-5)
    assert np.all(variables["batch_stats"]["count"] == steps)
    fresh = jnp.asarray(rng.normal(5, 2, (4096, 3)), jnp.float32)
    y, _ = apply(variables, fresh, use_running_average=True)
    sampling = 5 / np.sqrt(4096)
    np.testing.assert_allclose(y.mean(0), 0, atol=2 * sampling)
    np.testing.assert_allclose(y.std(0), 1, atol=2 * sampling)


def test_debias_keeps_a_small_variance(layer, rng):
    """Dividing by 1 - momentum**k afterwards would lose it in the initial 1."""
    x = jnp.asarray(rng.normal(0, 1e-4, (2, 512, 3)), jnp.float32)
    variables = train(layer(3, debias=True), start(3, count=True), x)
    var = np.average([oracle.BatchNorm(b).forward().var for b in x], 0, [0.99, 1])
    np.testing.assert_allclose(variables["batch_stats"]["var"], var, rtol=2e-6)


def test_momentum_none_is_the_plain_average(layer, rng):
    batches = jnp.asarray(rng.normal(5, 2, (7, 64, 3)), jnp.float32)
    variables = train(layer(3, momentum=None), start(3, count=True), batches)
    moments = [oracle.BatchNorm(b).forward() for b in batches]
    stats, size = variables["batch_stats"], len(moments)
    np.testing.assert_allclose(stats["mean"], sum(m.mean for m in moments) / size, 1e-6)
    np.testing.assert_allclose(stats["var"], sum(m.var for m in moments) / size, 2e-6)


def test_unbiased_stores_the_variance_as_pytorch_does(layer, x):
    call = {"use_running_average": False}
    _, updated = layer(3, momentum=0.0, unbiased=True)(start(3), x, **call)
    expected = oracle.BatchNorm(x).forward().var * 16 / 15
    np.testing.assert_allclose(updated["batch_stats"]["var"], expected, rtol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_statistics_keep_their_dtype_under_scan(layer, rng, x64, dtype):
    batches = jnp.asarray(rng.normal(5, 2, (3, 8, 2)), dtype)
    apply = layer(2, debias=True)
    started = start(2, count=True)
    started = jax.tree.map(lambda a: a.astype(jnp.float32), started)
    variables = train(apply, started, batches)
    chex.assert_type(jax.tree.leaves(variables["batch_stats"]), jnp.float32)
    assert not np.any(np.isnan(jax.tree.leaves(variables["batch_stats"])[1]))


def test_frozen_costs_no_collective_and_leaves_the_parameters(layer):
    """Statistics by the flag, scale and bias by `stop_gradient`."""
    apply = layer(3, axis_name="i")

    def loss(params, x, stats):
        params = jax.lax.stop_gradient(params)
        variables = {"params": params, "batch_stats": stats}
        y, _ = apply(variables, x, use_running_average=True)
        return jnp.sum(y**2)

    def gradient(x, variables):
        return jax.grad(loss, 1)(variables["params"], x, variables["batch_stats"])

    mapped = jax.shard_map(
        gradient, mesh=shards.mesh(), in_specs=(P("i"), P()), out_specs=P("i")
    )
    assert count_collectives(mapped, jnp.ones((8, 3)), start(3)) == 0
    slope = jax.grad(loss)(
        start(3)["params"], jnp.ones((8, 3)), start(3)["batch_stats"]
    )
    assert not any(np.any(s) for s in jax.tree.leaves(slope))


@pytest.mark.parametrize("use_running_average", [True, False])
def test_a_call_is_checked_once(layer, x, use_running_average, monkeypatch):
    """`x`, its axes and its mask: on the way from a module to the core."""
    counts = collections.Counter()
    for name in ("check_axis", "check_mask", "check_inexact", "check_epsilon"):
        check = getattr(lifting, name)

        def counted(*arguments, name=name, check=check, **options):
            counts[name] += 1
            return check(*arguments, **options)

        monkeypatch.setattr(lifting, name, counted)
    call = {"use_running_average": use_running_average, "update_stats": True}
    layer(3)(start(3), x, mask=jnp.ones(16, bool), **call)
    assert counts == dict.fromkeys(counts, 1) and len(counts) == 4
