# SPDX-License-Identifier: Apache-2.0
"""What waits for `commit`: cut over meshes, donated, of any dtype, with any count."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxbn.linen import BatchNorm, BatchRenorm, begin_accumulation, commit


def step(norm, stats, x):
    """The statistics after a batch, by a layer without parameters."""
    variables = {"batch_stats": stats}
    return norm.apply(variables, x, mutable="batch_stats")[1]["batch_stats"]


def norm(**fields):
    plain = {"use_scale": False, "use_bias": False, "use_running_average": False}
    return BatchNorm(**plain, **fields)


def start(dtype=jnp.float32, **more):
    return {"mean": jnp.zeros(6, dtype), "var": jnp.ones(6, dtype), **more}


@pytest.mark.parametrize("jitted", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize(
    ("cut", "of_stats"),
    [(P(None, None, "j"), P("j")), (P("i"), P("j")), (P("i", None, "j"), P())],
    ids=["features", "examples", "both"],
)
def test_statistics_cut_over_an_explicit_mesh(rng, cut, of_stats, jitted):
    mesh = jax.make_mesh((2, 2), ("i", "j"), axis_types=(AxisType.Explicit,) * 2)
    x = jnp.asarray(rng.normal(2, 1, (8, 4, 6)), jnp.float32)

    def update(stats, x):
        return commit(step(norm(), begin_accumulation(stats), x))

    expected = step(norm(), start(), x)
    stats = jax.device_put(start(), NamedSharding(mesh, of_stats))
    placed = jax.device_put(x, NamedSharding(mesh, cut))
    with jax.set_mesh(mesh):
        found = (jax.jit(update) if jitted else update)(stats, placed)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)
    assert found["mean"].sharding.is_equivalent_to(stats["mean"].sharding, 1)


def test_one_count_for_all_features_stays_one(rng):
    x = jnp.asarray(rng.normal(2, 1, (8, 6)), jnp.float32)
    layer, stats = norm(debias=True), start(count=jnp.array(3.0))
    found = commit(step(layer, begin_accumulation(stats), x))
    chex.assert_trees_all_close(found, step(layer, stats, x), rtol=1e-6)
    assert found["count"].shape == ()


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_buffers_may_be_donated():
    """Each is an array of its own, also where a layer has not run."""
    stats = begin_accumulation(start())
    found = jax.jit(commit, donate_argnums=0)(stats)
    chex.assert_trees_all_equal(found, start())
    again = begin_accumulation(found)
    leaves = jax.tree.leaves(again)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_loses_no_examples(rng, dtype):
    """65,505 values are infinitely many to float16."""
    x = jnp.asarray(rng.normal(3, 1, (70_000, 6)), jnp.float32)
    layer = norm(momentum=0.0)
    found = commit(step(layer, begin_accumulation(start(dtype)), x))
    chex.assert_trees_all_equal(found, step(layer, start(dtype), x))
    assert found["mean"].dtype == dtype
    np.testing.assert_allclose(found["mean"], 3, atol=0.05)


def test_a_schedule_takes_loaded_statistics_for_settled():
    """Whether the call updates them or not."""
    opened = BatchRenorm(
        use_scale=False,
        use_bias=False,
        use_running_average=False,
        max_scale=lambda n: jnp.where(n < 10, 1.0, 3.0),
        max_shift=lambda n: jnp.where(n < 10, 0.0, 5.0),
    )
    x = jnp.array([[1.0, 2.0], [3.0, 5.0]])
    loaded = {"mean": jnp.full(2, 5.0), "var": jnp.full(2, 4.0)}
    variables = {"batch_stats": loaded}
    y = opened.apply(variables, x, update_stats=False)
    with_update, _ = opened.apply(variables, x, mutable="batch_stats")
    np.testing.assert_allclose(y, with_update)
    np.testing.assert_allclose(y, [[-2, -1.5], [-1, 0]], atol=1e-4)


def test_a_schedule_is_asked_about_whole_numbers():
    table = jnp.array([1.0, 3.0])
    layer = BatchRenorm(
        use_running_average=False, max_scale=lambda n: table[n], max_shift=0.0
    )
    x = jnp.array([[1.0], [3.0]])
    variables = layer.init(jax.random.key(0), x)
    for _ in range(2):
        _, updates = layer.apply(variables, x, mutable="batch_stats")
        variables = {**variables, **updates}
    assert variables["batch_stats"]["count"] == 2
