# SPDX-License-Identifier: Apache-2.0
"""Virtual batches are batches: alone, masked, sharded under `jit`, synchronised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbn
from jaxbn.linen import BatchNorm
from tests import cases, oracle, parts, shards
from tests.cases import Case
from tests.core.test_collective_counts import compiled_collectives, count_collectives

VIRTUAL_CASES = [
    Case("virtual_dense", shape=(16, 3)),
    Case("virtual_ragged", (16, 5, 3), -1, mask="ragged", residual=True,
         activation="relu"),
    Case("virtual_weights", shape=(16, 5, 3), mask="weights", activation="tanh"),
    Case("virtual_by_feature", shape=(16, 5, 3), mask="by_feature_weights"),
    Case("virtual_shared_mask", shape=(16, 3, 4), axis=1, mask="every_example"),
    Case("virtual_mean_1e4", shape=(64, 3), mean=1e4, mask="ragged"),
    Case("virtual_plain_bfloat16", (16, 5, 3), -1, "bfloat16", affine=False),
]  # fmt: skip
SHARDS = shards.SHARDS


@pytest.fixture(params=VIRTUAL_CASES, ids=lambda case: case.name)
def virtual_case(request):
    return request.param


def examples(case, size):
    return np.arange(case.shape[0]).reshape(-1, size)


@pytest.mark.parametrize("size", [4, 8])
def test_on_one_device(virtual_case, size):
    data = cases.make(virtual_case)
    result = shards.run_whole(virtual_case, data, virtual_batch_size=size)
    cut = examples(virtual_case, size)
    parts.check(virtual_case, data, cut, result, result.moments)
    options = cases.options(virtual_case, data)
    moments = jaxbn.compute_moments(
        jnp.asarray(data.x),
        axis=virtual_case.axis,
        mask=options["mask"],
        virtual_batch_size=size,
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6, 1e-6), *(
        moments, result.moments
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("virtual_case", "mode"),
    # Every case under one transform, every transform with one case.
    [(case, "shard_map") for case in VIRTUAL_CASES]
    + [(VIRTUAL_CASES[1], mode) for mode in shards.MODES[1:]],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("of_shard", [0.5, 1, 2, 4])
def test_cut_from_the_synchronised_batch(virtual_case, mode, of_shard):
    """From less than a shard's examples to all shards'."""
    size = int(of_shard * virtual_case.shape[0] / SHARDS)
    data = cases.make(virtual_case)
    result = shards.run(mode, virtual_case, data, virtual_batch_size=size)
    for value in result.moments:  # the same on every shard, bit for bit
        np.testing.assert_array_equal(value, np.broadcast_to(value[0], value.shape))
    first = jax.tree.map(lambda m: m[0], result.moments)
    parts.check(virtual_case, data, examples(virtual_case, size), result, first)


@pytest.mark.parametrize("mode", shards.MODES)
@pytest.mark.parametrize("size", [2, 8])
def test_cut_from_groups_of_shards(mode, size):
    """A batch of each group; the moments of the other group's parts count nothing."""
    case = Case("virtual_groups", shape=(16, 5, 3), mask="ragged", mean=100.0)
    data = cases.make(case)
    groups = [[0, 2], [3, 1]]
    options = {"virtual_batch_size": size, "axis_index_groups": groups}
    result = shards.run(mode, case, data, **options)
    held = np.arange(16).reshape(4, 4)
    if size == 8:
        cut = [held[group].ravel() for group in groups]
        own = [[0], [1]]
    else:
        cut = list(held.reshape(8, 2))
        own = [[0, 1, 4, 5], [2, 3, 6, 7]]
    moments = parts.of_groups(result.moments, groups)
    for k in range(2):
        left_out = np.delete(moments.count[k], own[k])
        assert np.all(left_out == 0)
    put_together = jax.tree.map(lambda m: m[0] + m[1], moments)
    parts.check(case, data, cut, result, put_together)


def sharded(shape, dtype, spec):
    return jax.ShapeDtypeStruct(
        shape, dtype, sharding=NamedSharding(shards.mesh(), spec)
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_a_virtual_batch_per_device_needs_no_collective(dtype, masked):
    """Under `jit`, output and gradient; one alone sums the gradients of parameters."""
    x = sharded((64, 8, 8, 16), dtype, P("i"))
    c = sharded((16,), jnp.float32, P())
    mask = sharded((64,), bool, P("i")) if masked else None

    def forward(x, scale, bias, mask):
        options = {"mask": mask, "virtual_batch_size": 16}
        return jaxbn.batch_norm(x, scale, bias, **options)[0]

    def gradient(dy, x, scale, bias, mask):
        return jax.vjp(lambda x: forward(x, scale, bias, mask), x)[1](dy)

    def all_gradients(dy, x, scale, bias, mask):
        return jax.vjp(lambda *a: forward(*a, mask), x, scale, bias)[1](dy)

    assert compiled_collectives(forward, x, c, c, mask) == 0
    assert compiled_collectives(gradient, x, x, c, c, mask) == 0
    assert compiled_collectives(all_gradients, x, x, c, c, mask) == 1


def test_running_statistics_cost_three_collectives_of_feature_vectors():
    """An anchor, a mean and a variance of the devices' moments; no more under `jit`."""
    x, c = (
        sharded((64, 8, 8, 16), jnp.float32, P("i")),
        sharded((16,), jnp.float32, P()),
    )
    norm = BatchNorm(use_running_average=False, virtual_batch_size=16)
    variables = {
        "params": {"scale": c, "bias": c},
        "batch_stats": {"mean": c, "var": c},
    }

    def step(variables, x):
        return norm.apply(variables, x, mutable=["batch_stats"])

    assert compiled_collectives(step, variables, x) == 3


@pytest.mark.parametrize("mode", ["shard_map", "shard_map_unchecked", "pmap"])
@pytest.mark.parametrize("size", [2, 8])
def test_collectives_of_a_synchronised_batch(mode, size):
    """One for the moments of all; within a shard the gradient needs none."""
    case = Case("virtual_count", shape=(16, 5, 3), mask="ragged", activation="relu")
    shard, shared = shards.cut(cases.make(case))
    options = {"axis_name": "i", "virtual_batch_size": size}

    def forward(shard, shared):
        norm = shards.local_norm(case, shard, shared, **options)
        return norm(*shards.arguments(shard, shared))

    def backward(shard, shared):
        def loss(*args):
            norm = shards.local_norm(case, shard, shared, **options)
            return jnp.sum(norm(*args)[0] * shard["dy"])

        return jax.grad(loss)(*shards.arguments(shard, shared))

    across = size > 4
    forward_and_back = count_collectives(shards.mapped(mode, backward), shard, shared)
    assert count_collectives(shards.mapped(mode, forward), shard, shared) == 1
    assert forward_and_back == (2 if across else 0)


@pytest.mark.parametrize("axis_name", [None, "i"])
def test_running_statistics_take_the_moments_of_all(rng, axis_name):
    """Not the average of the parts' variances, which misses how their means differ."""
    x = jnp.asarray(rng.normal(np.arange(16)[:, None], 1, (16, 3)), jnp.float32)
    mask = jnp.arange(16) < 11
    module = BatchNorm(momentum=0.0, virtual_batch_size=2, axis_name=axis_name)
    # One example, as many initialize with, is not cut.
    variables = module.init(jax.random.key(0), x[:1], use_running_average=False)

    def step(variables, x, mask):
        options = {"use_running_average": False, "mask": mask}
        y, updates = module.apply(variables, x, mutable=["batch_stats"], **options)
        return y, updates["batch_stats"]

    if axis_name:
        step = jax.shard_map(
            step,
            mesh=shards.mesh(),
            in_specs=(P(), P("i"), P("i")),
            out_specs=(P("i"), P()),
        )
    y, stats = jax.jit(step)(variables, x, mask)
    expected = oracle.BatchNorm(x, mask=mask).forward()
    np.testing.assert_allclose(stats["mean"], expected.mean, rtol=1e-6)
    np.testing.assert_allclose(stats["var"], expected.var, rtol=1e-6)
    first = oracle.BatchNorm(x[:2]).forward()
    np.testing.assert_allclose(y[:2], first.y, atol=2e-6)


def test_an_empty_batch_is_one_virtual_batch_of_nothing():
    x = jnp.zeros((0, 3))
    y, moments = jaxbn.batch_norm(x, virtual_batch_size=4)
    assert y.shape == (0, 3)
    assert moments.mean.tolist() == [[0, 0, 0]]
    assert moments.count.tolist() == [0]


def test_a_virtual_batch_of_one_value_is_refused():
    with pytest.raises(ValueError, match=r"more than one value .* got shape \(1, 3\)"):
        jaxbn.batch_norm(jnp.ones((4, 3)), virtual_batch_size=1)
