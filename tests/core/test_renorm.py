# SPDX-License-Identifier: Apache-2.0
"""`batch_renorm` against float64: the oracle's batch norm, scale and bias moved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxbn
import jaxbn.linen
from tests import cases, oracle, shards
from tests.cases import Case
from tests.core.test_collective_counts import count_collectives
from tests.layers import LAYERS, start

LIMITS = [(1.0, 0.0), (1.5, 0.25), (3.0, 5.0), (1e6, 1e6)]


def running(features, rng, near):
    """Statistics near the batch's, of which some corrections reach a limit."""
    mean = np.reshape(near.mean + 0.5 * rng.normal(size=features), features)
    var = np.reshape(near.var * rng.uniform(0.2, 4, features) + 1e-3, features)
    wide = np.float32
    return mean.astype(wide), var.astype(wide)


def reference(case, data, stats, limits, examples=slice(None)):
    """The oracle with gamma r and beta + gamma d; and r, d."""
    plain = cases.reference(case, data)
    mean, var = (np.asarray(s, np.float64).ravel() for s in stats)
    running_deviation = np.sqrt(var + case.epsilon)
    r = np.sqrt(plain.var + case.epsilon) / running_deviation
    r = np.clip(r, 1 / limits[0], limits[0])
    d = np.clip((plain.mean - mean) / running_deviation, -limits[1], limits[1])
    features = plain.matrix.features
    scale = (plain.scale * r).reshape(features)
    bias = (plain.bias + plain.scale * d).reshape(features)
    moved = data._replace(scale=scale, bias=bias)
    ref = cases.reference(case, moved)
    return ref, r.reshape(features), d.reshape(features)


RENORM_CASES = [
    Case("renorm", shape=(16, 5, 3)),
    Case("renorm_plain", shape=(16, 3), affine=False),
    Case("renorm_mean_1e4", shape=(256, 3), mean=1e4),
    Case("renorm_relu", (16, 5, 3), -1, mask="ragged", activation="relu"),
    Case("renorm_residual_relu", (16, 5, 3), -1, residual=True, activation="relu"),
    Case("renorm_tanh", (16, 3, 4), 1, activation="tanh", residual=True),
    Case("renorm_weights", (16, 5, 3), -1, mask="weights"),
    Case("renorm_bfloat16", (16, 5, 3), -1, "bfloat16"),
    Case("renorm_nothing", (16, 3), -1, mask="nothing"),
]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("case", RENORM_CASES, ids=lambda c: c.name)
def test_forward_and_backward(case, limits, rng):
    data = cases.make(case)
    plain = cases.reference(case, data)
    stats = running(plain.matrix.features, rng, plain)
    given = cases.options(case, data)

    @jax.jit
    def run(x, scale, bias, residual, stats, max_scale, max_shift):
        def function(x, scale, bias, residual, stats):
            options = {"max_scale": max_scale, "max_shift": max_shift}
            options |= {**given, "residual": residual}
            return jaxbn.batch_renorm(x, stats, scale, bias, **options)

        (y, moments), vjp = jax.vjp(function, x, scale, bias, residual, stats)
        zero = jax.tree.map(jnp.zeros_like, moments)
        return y, moments, vjp((jnp.asarray(data.dy), zero))

    target = jaxbn.RunningStats(*map(jnp.asarray, stats), jnp.zeros(()))
    arrays = (*cases.arrays(data), given["residual"], target, *limits)
    y, moments, (dx, dscale, dbias, dr, dstats) = run(*arrays)
    ref, r, d = reference(case, data, stats, limits)
    tolerance = cases.Tolerance.of(case, ref)
    tolerance = tolerance._replace(terms=4 * tolerance.terms)
    tolerance.check(y, ref.forward().y, ref.output_sizes(), what="y")
    np.testing.assert_allclose(moments.mean, ref.forward().mean, rtol=1e-5, atol=1e-6)
    gradients, sizes = ref.backward(data.dy)
    tolerance.check(dx, gradients.x, sizes.x, what="dx")
    if case.affine:  # the tangent of gamma enters both
        expected = gradients.scale * r + gradients.bias * d
        size = sizes.scale * r + sizes.bias * np.abs(d)
        tolerance.check(dscale, expected, size, what="dscale")
        tolerance.check(dbias, gradients.bias, sizes.bias, what="dbias")
    if case.residual:
        tolerance.check(dr, gradients.residual, sizes.residual, what="dresidual")
    assert not any(np.any(s) for s in jax.tree.leaves(dstats))


def test_wide_limits_give_the_output_of_inference(rng):
    x = jnp.asarray(rng.normal(3, 2, (32, 3)), jnp.float32)
    stats = jaxbn.RunningStats(jnp.full(3, 2.5), jnp.full(3, 3.0), jnp.ones(()))
    y, _ = jaxbn.batch_renorm(x, stats, max_scale=1e3, max_shift=1e3)
    np.testing.assert_allclose(y, jaxbn.normalize(x, *stats[:2]), atol=2e-6)


def test_no_correction_is_batch_norm(rng):
    x = jnp.asarray(rng.normal(3, 2, (32, 3)), jnp.float32)
    stats = jaxbn.init_running_stats(3)
    y, moments = jaxbn.batch_renorm(x, stats, max_scale=1.0, max_shift=0.0)
    expected, same = jaxbn.batch_norm(x)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    np.testing.assert_array_equal(moments.var, same.var)


@pytest.mark.parametrize("mode", shards.MODES)
@pytest.mark.parametrize("size", [None, 8])
def test_cut_over_shards(mode, size, rng):
    """And cut into virtual batches, each corrected on its own."""
    x = rng.normal(np.arange(16)[:, None] / 4, 1, (16, 3)).astype(np.float32)
    mask = np.arange(16) % 5 != 0
    stats = jaxbn.RunningStats(jnp.full(3, 2.0), jnp.full(3, 2.0), jnp.ones(()))

    def local(shard, stats):
        options = {"mask": shard["mask"], "virtual_batch_size": size}
        y, _ = jaxbn.batch_renorm(shard["x"], stats, axis_name="i", **options)
        return y

    shard = {"x": jnp.asarray(x).reshape(4, 4, 3), "mask": mask.reshape(4, 4)}
    shard["mask"] = jnp.asarray(shard["mask"])
    mapped = shards.mapped(mode, local)
    y = shards.whole(jax.device_get(jax.jit(mapped)(shard, stats)))
    for part in np.split(np.arange(16), 1 if size is None else 2):
        expected, _ = jaxbn.batch_renorm(
            jnp.asarray(x[part]), stats, mask=jnp.asarray(mask[part])
        )
        np.testing.assert_allclose(y[part], expected, atol=2e-6)
    if mode != "vmap":
        assert count_collectives(mapped, shard, stats) == 1


def test_oracle_of_the_corrections():
    """By hand: mean 4 and deviation 2 of the batch, 3 and 1 of the running ones."""
    x = jnp.array([[2.0], [6.0]])
    stats = jaxbn.RunningStats(jnp.array([3.0]), jnp.array([1.0]), jnp.ones(()))
    y, _ = jaxbn.batch_renorm(x, stats, epsilon=0.0, max_scale=1.5, max_shift=0.5)
    assert y.tolist() == [[-1.5 + 0.5], [1.5 + 0.5]]
    assert oracle.BatchNorm(x, epsilon=0.0).forward().y.tolist() == [[-1.0], [1.0]]


@pytest.mark.parametrize("layer", LAYERS)
def test_modules(layer, rng):
    """One training step, by fields and by limits at the call; then inference."""
    x = jnp.asarray(rng.normal(3, 2, (32, 3)), jnp.float32)
    stats = jaxbn.init_running_stats(3)
    variables = start(3)
    for fields, call in (
        ({"max_scale": 1.5, "max_shift": 0.5}, {}),
        ({}, {"max_scale": jnp.float32(1.5), "max_shift": jnp.float32(0.5)}),
    ):
        apply = LAYERS[layer](3, "BatchRenorm", momentum=0.5, **fields)
        y, updated = jax.jit(
            lambda x, c, a=apply: a(variables, x, use_running_average=False, **c)
        )(x, call)
        expected, moments = jaxbn.batch_renorm(x, stats, max_scale=1.5, max_shift=0.5)
        np.testing.assert_allclose(y, expected, atol=2e-6)
        moved = jaxbn.update_running_stats(stats, moments, momentum=0.5)
        np.testing.assert_allclose(updated["batch_stats"]["var"], moved.var, 1e-6)
    y, _ = apply(updated, x, use_running_average=True)
    np.testing.assert_allclose(y, jaxbn.normalize(x, *moved[:2]), atol=2e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_limits_open_with_the_layers_own_updates(layer, rng):
    """As CrossQ's: batch norm for two updates, then batch renorm."""
    late = optax.join_schedules([lambda _: 1.0, lambda _: 3.0], [2])
    shift = optax.join_schedules([lambda _: 0.0, lambda _: 2.5], [2])
    fields = {"momentum": 0.5, "max_scale": late, "max_shift": shift}
    apply = LAYERS[layer](3, "BatchRenorm", **fields)
    variables = start(3, count=True)
    for number in range(4):
        x = jnp.asarray(rng.normal(number, 2, (32, 3)), jnp.float32)
        stats = jaxbn.RunningStats(**variables["batch_stats"])
        y, variables = apply(variables, x, use_running_average=False)
        if number < 2:
            expected, _ = jaxbn.batch_norm(x)
        else:
            expected, _ = jaxbn.batch_renorm(x, stats, max_scale=3.0, max_shift=2.5)
        np.testing.assert_allclose(y, expected, atol=2e-6)
        # As from a checkpoint.
        saved = jax.tree.map(np.asarray, variables)
        variables = jax.tree.map(jnp.asarray, saved)
    assert variables["batch_stats"]["count"].tolist() == [4, 4, 4]


def test_each_segment_opens_its_own_limits(rng):
    """An absent one is still at its start."""
    norm = jaxbn.linen.BatchRenorm(
        use_running_average=False,
        num_segments=2,
        max_scale=lambda n: 1.0 + n.astype(jnp.float32),
    )
    x = jnp.asarray(rng.normal(size=(8, 3)), jnp.float32)
    ids = jnp.zeros(8, jnp.int32)
    variables = norm.init(jax.random.key(0), x, segment_ids=ids)
    for _ in range(2):
        _, new = norm.apply(variables, x, segment_ids=ids, mutable="batch_stats")
        variables = {**variables, **new}
    assert variables["batch_stats"]["count"].tolist() == [[2] * 3, [0] * 3]


def test_initialization_takes_a_batch_of_one():
    module = jaxbn.linen.BatchRenorm(use_running_average=False)
    variables = module.init(jax.random.key(0), jnp.full((1, 3), 7.0))
    assert not np.any(variables["batch_stats"]["mean"])


class Critic(nn.Module):
    """CrossQ's: one forward of current and next states together."""

    @nn.compact
    def __call__(self, x, train):
        for _ in range(2):
            x = nn.Dense(32)(x)
            norm = jaxbn.linen.BatchRenorm(
                use_running_average=not train, momentum=0.99, debias=True
            )
            x = nn.relu(norm(x))
        return nn.Dense(1)(x)[:, 0]


def test_the_critic_of_crossq_learns(rng):
    """No target network: the next states' values are those of the same forward.

    The reward is linear in state and action, the next state does not depend on them,
    and the discount is 0.5, so that the value is the reward and a constant.
    """
    weights = rng.normal(size=6)
    critic, size = Critic(), 128

    def batch():
        now, later = rng.normal(size=(2, size, 6))
        both = np.concatenate([now, later]).astype(np.float32)
        return jnp.asarray(both), jnp.asarray((now @ weights).astype(np.float32))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        variables = critic.init(jax.random.key(0), batch()[0], train=True)
        optimizer = optax.adam(3e-3)
        state = optimizer.init(variables["params"])

        @jax.jit
        def step(variables, state, both, reward):
            def loss(params):
                q, updates = critic.apply(
                    {**variables, "params": params}, both, train=True,
                    mutable=["batch_stats"],
                )  # fmt: skip
                goal = reward + 0.5 * jax.lax.stop_gradient(q[size:])
                return jnp.mean((q[:size] - goal) ** 2), updates

            slope, updates = jax.grad(loss, has_aux=True)(variables["params"])
            change, state = optimizer.update(slope, state)
            params = optax.apply_updates(variables["params"], change)
            return {"params": params, **updates}, state

        for _ in range(600):
            variables, state = step(variables, state, *batch())
        both, reward = batch()
        value = critic.apply(variables, both[:size], train=False)
    assert np.corrcoef(value, reward)[0, 1] > 0.95
