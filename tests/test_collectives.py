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
from tests import cases
from tests.cases import Case

SHARDS = 4
MODES = ("shard_map", "shard_map_unchecked", "pmap", "vmap")
SYNC_CASES = [
    Case("sync_dense", shape=(16, 3)),
    Case("sync_one_each", shape=(4, 3)),
    Case("sync_ragged", shape=(16, 5, 3), mask="ragged"),
    Case("sync_ragged_relu", (16, 5, 3), -1, mask="ragged", residual=True,
         activation="relu"),
    Case("sync_weights_tanh", shape=(16, 5, 3), mask="weights", activation="tanh"),
    Case("sync_nothing", shape=(16, 3), mask="nothing"),
    Case("sync_mean_1e4", shape=(64, 3), mean=1e4, mask="ragged"),
    Case("sync_channels_first", shape=(8, 3, 4), axis=1, activation="relu"),
    Case("sync_two_feature_axes", shape=(8, 3, 4, 2), axis=(1, 3)),
    Case("sync_bfloat16", shape=(16, 5, 3), dtype="bfloat16", mask="ragged"),
]  # fmt: skip


@pytest.fixture(params=SYNC_CASES, ids=lambda case: case.name)
def sync_case(request):
    return request.param


def mesh():
    return jax.make_mesh((SHARDS,), ("i",), axis_types=(AxisType.Auto,))


def mapped(mode, function):
    """Maps over the leading axis, named i, of the first argument, not the second."""
    if mode in ("pmap", "vmap"):
        transform = {"pmap": jax.pmap, "vmap": jax.vmap}[mode]
        return transform(function, in_axes=(0, None), axis_name="i")

    def local(shard, shared):
        shard = jax.tree.map(lambda a: a[0], shard)
        return jax.tree.map(lambda a: a[None], function(shard, shared))

    return jax.shard_map(
        local,
        mesh=mesh(),
        in_specs=(P("i"), P()),
        out_specs=P("i"),
        check_vma=mode == "shard_map",
    )


def cut(case, data):
    """The arrays that are cut, stacked by shard, and the shared ones."""

    def split(a):
        return None if a is None else jnp.asarray(a.reshape(SHARDS, -1, *a.shape[1:]))

    shard = {k: split(getattr(data, k)) for k in ("x", "residual", "mask", "dy")}
    shared = {name: getattr(data, name) for name in ("scale", "bias", "dmean", "dvar")}
    return shard, {k: None if v is None else jnp.asarray(v) for k, v in shared.items()}


def local_norm(case, shard, **sync):
    """batch_norm of one shard as a function of its differentiable arguments."""

    def function(x, scale, bias, residual):
        return jaxbn.batch_norm(
            x,
            scale,
            bias,
            axis=case.axis,
            epsilon=case.epsilon,
            mask=shard["mask"],
            residual=residual,
            activation=cases.ACTIVATIONS[case.activation],
            **sync,
        )

    return function


def arguments(shard, shared):
    return shard["x"], shared["scale"], shared["bias"], shard["residual"]


def loss(case, shard, shared, **sync):
    """Linear in outputs and moments, whose part is shared out between the shards."""

    def function(*args):
        y, moments = local_norm(case, shard, **sync)(*args)
        total = jnp.sum(y.astype(jnp.float32) * shard["dy"].astype(jnp.float32))
        share = jnp.sum(shared["dmean"] * moments.mean)
        return total + (share + jnp.sum(shared["dvar"] * moments.var)) / SHARDS

    return function


def whole(stacked):
    """Shards put together again."""
    return None if stacked is None else stacked.reshape(-1, *stacked.shape[2:])


@pytest.mark.parametrize("mode", MODES)
def test_forward_and_gradients_taken_inside(mode, sync_case):
    data = cases.make(sync_case)
    shard, shared = cut(sync_case, data)

    def step(shard, shared):
        y, moments = local_norm(sync_case, shard, axis_name="i")(
            *arguments(shard, shared)
        )
        function = loss(sync_case, shard, shared, axis_name="i")
        inputs = arguments(shard, shared)
        argnums = (0, 1, 2, 3) if inputs[3] is not None else (0, 1, 2)
        return y, moments, jax.grad(function, argnums)(*inputs)

    y, moments, gradients = jax.jit(mapped(mode, step))(shard, shared)
    dx, dscale, dbias, *dr = gradients
    for value in moments:  # the same on every shard, bit for bit
        np.testing.assert_array_equal(value, np.broadcast_to(value[0], value.shape))
    first = jax.tree.map(lambda m: m[0], moments)
    cases.check_forward(sync_case, data, whole(y), first)
    # Complete on every shard where the shared arguments are known to be the same.
    together = (lambda g: g[0]) if mode == "shard_map" else (lambda g: g.sum(0))
    dr = whole(dr[0]) if dr else None
    gradients = (whole(dx), together(dscale), together(dbias), dr)
    cases.check_gradients(sync_case, data, gradients)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_taken_through_the_map(mode, sync_case):
    data = cases.make(sync_case)
    shard, shared = cut(sync_case, data)

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
    shard, shared = cut(case, data)

    def step(shard, shared):
        sync = {"axis_name": "i", "axis_index_groups": groups}
        y, moments = local_norm(case, shard, **sync)(*arguments(shard, shared))
        dx = jax.grad(
            lambda x: jnp.sum(
                local_norm(case, shard, **sync)(x, shared["scale"], None, None)[0]
                * shard["dy"]
            )
        )(shard["x"])
        return y, moments, dx

    y, moments, dx = jax.jit(mapped(mode, step))(shard, shared)
    for group in groups:
        members = data._replace(
            **{
                name: np.concatenate([np.asarray(shard[name][k]) for k in group])
                for name in ("x", "mask", "dy")
            }
        )
        first = jax.tree.map(lambda m, k=group[0]: m[k], moments)
        cases.check_forward(case, members, np.concatenate([y[k] for k in group]), first)
        part = members._replace(dmean=0.0, dvar=0.0, bias=None)
        got = np.concatenate([dx[k] for k in group])
        cases.check_gradients(case, part, (got, None, None, None))


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
