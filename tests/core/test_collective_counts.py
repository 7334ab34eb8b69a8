# SPDX-License-Identifier: Apache-2.0
"""One collective forward and one backward a layer, counted in the lowered program."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbn
from jaxbn.linen import BatchNorm
from tests import cases, hlo, shards
from tests.cases import Case
from tests.shards import arguments, cut, local_norm, mapped


def loss_of_output(case, shard, shared, **sync):
    """Of the output alone: moments that meet shards cost a collective of their own."""

    def function(*args):
        return jnp.sum(local_norm(case, shard, shared, **sync)(*args)[0] * shard["dy"])

    return function


def count_collectives(function, *args):
    """The collectives of the lowered program, loops apart."""
    text = hlo.without_loops(jax.jit(function).lower(*args).as_text())
    names = "all_reduce|all_gather|reduce_scatter|all_to_all|collective_permute"
    return len(re.findall(rf"stablehlo\.({names})", text))


def compiled_collectives(function, *args):
    """Those of the compiled program: under `jit` the partitioner puts them in."""
    compiled = jax.jit(function).lower(*args).compile().as_text()
    return len(hlo.collectives(compiled))


def numbers_sent(function, *args):
    """How many numbers the collectives of the compiled program send."""
    compiled = jax.jit(function).lower(*args).compile().as_text()
    return sum(hlo.collectives(compiled))


@pytest.mark.parametrize("groups", [None, [[0, 1], [2, 3]]])
@pytest.mark.parametrize("mode", ["shard_map", "shard_map_unchecked", "pmap"])
def test_one_collective_forward_and_one_backward(mode, groups):
    case = Case("sync_count", shape=(16, 5, 3), mask="ragged", activation="relu")
    shard, shared = cut(cases.make(case))
    sync = {"axis_name": "i", "axis_index_groups": groups}

    def forward(shard, shared):
        return local_norm(case, shard, shared, **sync)(*arguments(shard, shared))

    def backward(shard, shared):
        return jax.grad(loss_of_output(case, shard, shared, **sync))(
            *arguments(shard, shared)
        )

    assert count_collectives(mapped(mode, forward), shard, shared) == 1
    assert count_collectives(mapped(mode, backward), shard, shared) == 2


def test_parameter_gradients_cost_nothing_more_where_they_can():
    case = Case("sync_count", shape=(16, 5, 3), activation="relu")
    shard, shared = cut(cases.make(case))

    def backward(shard, shared):
        function = loss_of_output(case, shard, shared, axis_name="i")
        return jax.grad(function, argnums=(0, 1, 2))(*arguments(shard, shared))

    assert count_collectives(mapped("shard_map", backward), shard, shared) == 2


# Forward, and with the gradients of input and parameters: ours, Flax's.
COMPARED_WITH_FLAX = {
    "shard_map": ((1, 2), (1, 4)),
    "shard_map_unchecked": ((1, 2), (1, 2)),
    "pmap": ((1, 2), (1, 2)),
    "vmap": ((1, 2), (1, 2)),  # over an axis that is cut over a mesh
    "jit": ((1, 2), (1, 2)),
}


@pytest.mark.parametrize("mode", COMPARED_WITH_FLAX)
def test_compared_with_flax(mode):
    """Parameters' gradients are taken where they cost a collective that counts."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        counts = tuple(of_module(m, mode) for m in (BatchNorm, nn.BatchNorm))
    assert counts == COMPARED_WITH_FLAX[mode]


def of_module(module, mode):
    """Of a training step of the module, forward and with its gradients."""
    steps, x, variables = steps_of_module(module, mode)
    count = compiled_collectives if mode in ("vmap", "jit") else count_collectives
    return tuple(count(step, x, variables) for step in steps)


def steps_of_module(module, mode, num=4, features=3):
    """The steps, and a batch and the variables for them."""
    norm = module(use_running_average=False, axis_name=None if mode == "jit" else "i")
    variables = norm.init(jax.random.key(0), jnp.ones((2, features)))
    # Where the compiler puts collectives in, it sums parameters' gradients as well.
    argnums = 1 if mode in ("vmap", "jit") else (0, 1)

    def forward(x, variables):
        return norm.apply(variables, x, mutable=["batch_stats"])[0]

    def backward(x, variables):
        def loss(params, x):
            return jnp.sum(forward(x, {**variables, "params": params}) ** 3)

        return jax.grad(loss, argnums)(variables["params"], x)

    steps = forward, backward
    if mode != "jit":
        steps = tuple(shards.mapped(mode, step, num) for step in steps)
    if mode not in ("vmap", "jit"):
        return steps, jnp.ones((num, 4, features)), variables
    cut = NamedSharding(shards.mesh(num), P("i"))
    shape = (64, 8, 8, features) if mode == "jit" else (num, 16, 8, 8, features)
    return steps, jax.ShapeDtypeStruct(shape, jnp.float32, sharding=cut), variables


FEATURES = 48
# How many numbers a step sends forward and backward, on any number of shards.
SENT = {
    "plain": (2 * FEATURES, 2 * FEATURES),
    "masked": (2 * FEATURES + 1, 2 * FEATURES),
    "masked_by_feature": (3 * FEATURES, 2 * FEATURES),
    "two_groups": (2 * (2 * FEATURES + 1), 2 * 2 * FEATURES),
}


@pytest.mark.parametrize("num", [2, 8])
@pytest.mark.parametrize("mode", ["shard_map", "shard_map_unchecked", "pmap"])
@pytest.mark.parametrize("kind", SENT)
def test_numbers_sent_do_not_grow_with_the_shards(kind, mode, num):
    half = num // 2
    groups = [list(range(half)), list(range(half, num))]
    options = {"axis_name": "i"}
    if kind == "two_groups":
        options["axis_index_groups"] = groups
    x = jnp.ones((num, 4, 6, FEATURES))
    mask = None if kind == "plain" else jnp.ones((num, 4), bool)
    if kind == "masked_by_feature":
        mask = x > 0

    def forward(shard, scale):
        x, mask = shard
        return jaxbn.batch_norm(x, scale, mask=mask, **options)[0]

    def backward(shard, scale):
        x, mask = shard
        return jax.grad(lambda x: jnp.sum(forward((x, mask), scale) ** 3))(x)

    arguments = (x, mask), jnp.ones(FEATURES)
    sent = [numbers_sent(mapped(mode, f, num), *arguments) for f in (forward, backward)]
    assert (sent[0], sent[1] - sent[0]) == SENT[kind]


@pytest.mark.parametrize("num", [2, 8])
@pytest.mark.parametrize("mode", ["shard_map", "jit"])
def test_no_more_numbers_than_flax(as_users_run_it, mode, num):
    ours, flax = (
        [numbers_sent(step, x, variables) for step in steps]
        for steps, x, variables in (
            steps_of_module(module, mode, num, FEATURES)
            for module in (BatchNorm, nn.BatchNorm)
        )
    )
    # `docs/cost.md` says so.
    assert ours == [2 * FEATURES, 4 * FEATURES]
    assert flax == [2 * FEATURES, (5 if mode == "shard_map" else 4) * FEATURES]


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("mode", ["shard_map", "shard_map_unchecked", "pmap"])
def test_segments_cost_no_collective_more(mode, each):
    """Nor do scale and bias of each example."""
    x = jax.random.normal(jax.random.key(0), (4, 6, 5, 3))
    ids = jnp.arange(24).reshape(4, 6) % 3
    rows = jnp.ones((4, 6, 3)) if each else jnp.ones((4, 3))

    def loss(x, scale, ids):
        sync = {"segment_ids": ids, "num_segments": 3, "axis_name": "i"}
        return jnp.sum(jaxbn.batch_norm(x, scale, **sync)[0] ** 3)

    def forward(shard, _):
        return loss(*shard)

    def backward(shard, shared):
        x, scale, ids = shard
        scale = scale if each else shared
        return jax.grad(loss, argnums=(0, 1))(x, scale, ids)

    shard = x, rows, ids
    assert count_collectives(mapped(mode, forward), shard, rows[0]) == 1
    assert count_collectives(mapped(mode, backward), shard, rows[0]) == 2
