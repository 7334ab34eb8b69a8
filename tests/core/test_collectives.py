# SPDX-License-Identifier: Apache-2.0
"""A batch cut into shards is the batch: under every transform, masks, groups included.

Each test compares what the shards compute with the oracle of the whole batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxbn
from tests import cases, parts, shards
from tests.cases import Case
from tests.shards import MODES, arguments, cut, loss, mapped, whole

SYNC_CASES = [
    Case("sync_dense", shape=(16, 3)),
    Case("sync_one_each", shape=(4, 3)),
    Case("sync_ragged", shape=(16, 5, 3), mask="ragged"),
    Case("sync_ragged_relu", (16, 5, 3), -1, mask="ragged", residual=True,
         activation="relu"),
    Case("sync_weights_tanh", shape=(16, 5, 3), mask="weights", activation="tanh"),
    Case("sync_by_feature", (16, 5, 3), -1, mask="by_feature", activation="relu"),
    Case("sync_nothing", shape=(16, 3), mask="nothing"),
    Case("sync_mean_1e4", shape=(64, 3), mean=1e4, mask="ragged"),
    Case("sync_channels_first", shape=(8, 3, 4), axis=1, activation="relu"),
    Case("sync_two_feature_axes", shape=(8, 3, 4, 2), axis=(1, 3)),
    Case("sync_bfloat16", shape=(16, 5, 3), dtype="bfloat16", mask="ragged"),
]  # fmt: skip


@pytest.fixture(params=SYNC_CASES, ids=lambda case: case.name)
def sync_case(request):
    return request.param


@pytest.mark.parametrize("mode", MODES)
def test_forward_and_gradients_taken_inside(mode, sync_case):
    data = cases.make(sync_case)
    result = shards.run(mode, sync_case, data)
    for value in result.moments:  # the same on every shard, bit for bit
        np.testing.assert_array_equal(value, np.broadcast_to(value[0], value.shape))
    first = jax.tree.map(lambda m: m[0], result.moments)
    cases.check_forward(sync_case, data, result.y, first)
    cases.check_gradients(sync_case, data, result.together)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_taken_through_the_map(mode, sync_case):
    data = cases.make(sync_case)
    shard, shared = cut(data)

    def total(x, scale, bias, residual):
        def local(shard, shared):
            function = loss(sync_case, shard, shared, axis_name="i")
            return function(*arguments(shard, shared))

        return jnp.sum(
            mapped(mode, local)(
                {**shard, "x": x, "residual": residual},
                {**shared, "scale": scale, "bias": bias},
            )
        )

    inputs = arguments(shard, shared)
    argnums = (0, 1, 2, 3) if inputs[3] is not None else (0, 1, 2)
    dx, dscale, dbias, *dr = jax.jit(jax.grad(total, argnums))(*inputs)
    dr = whole(dr[0]) if dr else None
    cases.check_gradients(sync_case, data, (whole(dx), dscale, dbias, dr))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("groups", [[[0, 1], [2, 3]], [[3], [0, 2, 1]]])
def test_groups(mode, groups):
    case = Case("sync_groups", shape=(16, 5, 3), mask="ragged", mean=100.0)
    data = cases.make(case)
    result = shards.run(mode, case, data, axis_index_groups=groups)
    examples = np.arange(16).reshape(4, 4)
    own = parts.of_groups(result.moments, groups)
    parts.check(case, data, [examples[g].ravel() for g in groups], result, own)


def test_names_of_mesh_and_vmap_mixed():
    """Sixteen examples cut by a vmap and a mesh of two axes."""
    case = Case("sync_mixed", shape=(16, 3), mask="ragged")
    data = cases.make(case)
    scale, bias = jnp.asarray(data.scale), jnp.asarray(data.bias)

    def norm(x, mask):
        names = ("v", "a", "b")
        return jaxbn.batch_norm(x, scale, bias, mask=mask, axis_name=names)

    def local(x, mask):
        outputs = jax.vmap(norm, axis_name="v")(x[:, 0, 0], mask[:, 0, 0])
        return jax.tree.map(lambda a: a[:, None, None], outputs)

    y, moments = jax.shard_map(
        local,
        mesh=jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2),
        in_specs=P(None, "a", "b"),
        out_specs=P(None, "a", "b"),
        check_vma=False,
    )(jnp.asarray(data.x).reshape(2, 2, 2, 2, 3), data.mask.reshape(2, 2, 2, 2))
    first = jax.tree.map(lambda m: m[0, 0, 0], moments)
    cases.check_forward(case, data, y.reshape(16, 3), first)
