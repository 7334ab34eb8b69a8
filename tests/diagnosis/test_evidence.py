# SPDX-License-Identifier: Apache-2.0
"""Batches with other neighbours, replicas, and masks of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxbn._diagnosis.evidence import (
    Observer,
    Variables,
    decayed_names,
    differing,
    same_for_the_first,
    with_other_neighbours,
)
from tests import shards
from tests.core.test_distributed import run_processes


def test_other_neighbours_keep_the_first_example_and_what_is_no_example():
    batch = {"x": jnp.arange(6.0).reshape(3, 2), "y": np.array([4, 5, 6]), "t": 0.5}
    batch["key"] = jax.random.key(0)
    other, size = with_other_neighbours(batch)
    assert size == 3 and other["t"] == 0.5 and other["key"] is batch["key"]
    assert other["x"].tolist() == [[0, 1]] * 3 and other["y"].tolist() == [4, 4, 4]


@pytest.mark.parametrize("batch", [jnp.ones((1, 2)), jnp.ones((4, 2)), {}, 3.0])
def test_nothing_changes_where_there_is_one_example_or_all_are_alike(batch):
    assert with_other_neighbours(batch) is None


def test_outputs_are_compared_for_the_first_example_bit_by_bit():
    y = jnp.array([[1.0, jnp.nan], [2.0, 2.0]])
    assert same_for_the_first(y, y.at[1].set(0), 2)
    assert not same_for_the_first(y, y.at[0, 0].add(1e-7), 2)
    assert (
        same_for_the_first({"loss": jnp.ones(())}, {"loss": jnp.zeros(())}, 2) is None
    )


def test_stacked_rows_of_pmap_are_replicas():
    place = NamedSharding(shards.mesh(), P("i"))
    rows = jnp.ones((4, 3))
    same = Variables(jax.device_put(rows, place), jnp.ones(3))
    other = same._replace(mean=jax.device_put(rows.at[2, 0].set(1.5), place))
    assert differing({"a": same, "b": other}) == {
        "b": "`mean` of 1 of 4 devices is not that of the first; the largest "
        "difference is 0.5"
    }


def test_features_that_are_cut_over_devices_are_no_replicas():
    place = NamedSharding(shards.mesh(), P("i"))
    cut = jax.device_put(jnp.arange(8.0), place)
    assert not differing({"a": Variables(cut, cut, cut, cut)})


def test_masks():
    params = {"norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)}}
    every = {"norm/scale": True, "norm/bias": True}
    assert decayed_names(True, params) == every
    assert decayed_names(lambda p: jax.tree.map(lambda _: True, p), params) == every
    assert decayed_names({"norm": True}, params) == every  # a prefix, as optax takes it
    assert decayed_names(FrozenDict(norm=np.bool_(True)), params) == every
    own = {"norm": {"scale": jnp.array(False), "bias": True}}
    assert decayed_names(own, params) == {"norm/scale": False, "norm/bias": True}
    assert decayed_names(None, params) == {}


def test_a_trace_starts_without_what_the_last_has_seen():
    observer = Observer()
    observer.dropout("drop")
    observer.forget()

    class Norm:
        axis, momentum, epsilon, axis_name = -1, 0.9, 1e-5, None

    observer.norm("norm", Norm(), jnp.ones((4, 3)), True, is_own=False)
    assert observer.calls["norm"].dropout_before is None
    assert observer.calls["norm"].num_values == 4
    assert not observer.by_batch


@pytest.mark.processes
def test_processes_that_differ(tmp_path):
    """Statistics that each process has for itself, and arrays of both together."""
    figure = "norm1: replicas: `var` of 1 of 2 processes is not that of the first"
    for found in run_processes(2, tmp_path, "tests.diagnosis.worker"):
        assert [text.item() for text in found] == ["", "", figure, figure]
