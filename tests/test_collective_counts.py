# SPDX-License-Identifier: Apache-2.0
"""One collective forward and one backward a layer, counted in the lowered program."""

import re

import jax
import jax.numpy as jnp
import pytest

from tests import cases
from tests.cases import Case
from tests.shards import arguments, cut, local_norm, mapped


def loss_of_output(case, shard, shared, **sync):
    """Of the output alone: moments that meet shards cost a collective of their own."""

    def function(*args):
        return jnp.sum(local_norm(case, shard, shared, **sync)(*args)[0] * shard["dy"])

    return function


def count_collectives(function, *args):
    """All collectives of the lowered program."""
    text = jax.jit(function).lower(*args).as_text()
    names = "all_reduce|all_gather|reduce_scatter|all_to_all|collective_permute"
    return len(re.findall(rf"stablehlo\.({names})", text))


def compiled_collectives(function, *args):
    """Those of the compiled program: under `jit` the partitioner puts them in."""
    text = jax.jit(function).lower(*args).compile().as_text()
    names = "all-reduce|all-gather|collective-permute|all-to-all"
    return len(re.findall(rf" (?:{names})(?:-start)?\(", text))


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
