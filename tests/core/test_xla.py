# SPDX-License-Identifier: Apache-2.0
"""Each spelling in `_core/xla.py` against plain JAX, in the compiled program.

A test that fails here says that the compiler no longer needs the spelling: then the
spelling goes. Those for TPU and GPU are in `tests/hardware/`.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbn
from jaxbn._core import xla
from tests import shards
from tests.core.test_collective_counts import compiled_collectives
from tests.core.test_passes import count, ours


def same(x, *_):
    return x


PLAIN = {
    "settled": same,
    "subtract_again": lambda x, vector, expand: x - expand(vector),
    "broadcast_once": same,
}


def passes_of(monkeypatch, spelling, *, backward):
    """Reads and writes of full tensors with the spelling, and with plain JAX."""
    with_it = sum(count(ours("plain"), backward=backward))
    monkeypatch.setattr(xla, spelling, PLAIN[spelling])
    jax.clear_caches()
    without = sum(count(ours("plain"), backward=backward))
    jax.clear_caches()
    return with_it, without


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("spelling", ["settled", "subtract_again"])
def test_saves_passes_over_x(monkeypatch, spelling, backward):
    with_it, without = passes_of(monkeypatch, spelling, backward=backward)
    assert with_it < without


def test_one_broadcast_of_a_row(monkeypatch):
    """Under `jit` with a sharded batch, in the forward pass."""
    x = jax.device_put(jnp.ones((8, 4, 4, 3)), NamedSharding(shards.mesh(), P("i")))

    def forward(x):
        return jaxbn.batch_norm(x)[0]

    with_it = compiled_collectives(forward, x)
    monkeypatch.setattr(xla, "broadcast_once", same)
    jax.clear_caches()
    without = compiled_collectives(forward, x)
    jax.clear_caches()
    assert with_it < without
