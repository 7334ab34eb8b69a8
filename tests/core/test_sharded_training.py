# SPDX-License-Identifier: Apache-2.0
"""The Linen module over devices: `shard_map` with `axis_name`, `jit` over a mesh."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbn
from jaxbn.linen import BatchNorm
from tests import oracle, shards
from tests.core.test_collective_counts import compiled_collectives

MASK = np.arange(16) < 5  # the shards hold 4, 1, 0 and 0 examples that count


@pytest.fixture(params=[AxisType.Explicit, AxisType.Auto], ids=lambda kind: kind.name)
def mesh(request):
    return shards.mesh(kind=request.param)


@pytest.fixture
def x(rng):
    """Shards that differ in mean; what does not count is not zero."""
    return jnp.asarray(rng.normal(np.arange(16)[:, None], 1, (16, 3)), jnp.float32)


def step(module):
    """One training step: output and new statistics."""

    def run(variables, x, mask):
        options = {"use_running_average": False, "mask": mask}
        y, updates = module.apply(variables, x, mutable=["batch_stats"], **options)
        return y, updates["batch_stats"]

    return run


def over_shards(module, mesh, check_vma):
    specs = (P(), P("i"), P("i"))
    mapped = jax.shard_map(
        step(module),
        mesh=mesh,
        in_specs=specs,
        out_specs=(P("i"), P()),
        check_vma=check_vma,
    )
    shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
    return lambda *arguments: mapped(*jax.device_put(arguments, shardings))


@pytest.mark.parametrize("check_vma", [True, False])
def test_synchronised_statistics_are_those_of_the_whole_batch(mesh, x, check_vma):
    module = BatchNorm(axis_name="i", momentum=0.0)
    # Initialization is outside the map, where the axis is not bound.
    variables = module.init(jax.random.key(0), x, use_running_average=False)
    mask = jnp.asarray(MASK)
    y, stats = jax.jit(over_shards(module, mesh, check_vma))(variables, x, mask)
    expected = oracle.BatchNorm(x, mask=MASK).forward()
    np.testing.assert_allclose(y, expected.y, atol=2e-6)
    np.testing.assert_allclose(stats["mean"], expected.mean, rtol=1e-6)
    np.testing.assert_allclose(stats["var"], expected.var, rtol=1e-6)


def test_flax_averages_the_means_of_shards_without_their_counts(mesh, x):
    """B1 and B6: the reason for all this; where it fails, Flax was fixed."""
    module = nn.BatchNorm(axis_name="i", momentum=0.0)
    variables = module.init(jax.random.key(0), x, use_running_average=False)
    with jax.numpy_dtype_promotion("standard"):
        _, stats = over_shards(module, mesh, True)(
            variables, x, jnp.asarray(MASK)[:, None]
        )
    assert np.all(np.isnan(stats["mean"]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_sharded_batch_under_jit_is_one_batch(mesh, x, dtype):
    x = x.astype(dtype)
    sharded = jax.device_put(x, NamedSharding(mesh, P("i")))
    y, moments = jax.jit(jaxbn.batch_norm)(sharded)
    expected = oracle.BatchNorm(x).forward()
    np.testing.assert_allclose(moments.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(moments.var, expected.var, rtol=2e-6)
    atol = 2e-6 if dtype == jnp.float32 else 0.01
    np.testing.assert_allclose(y.astype(jnp.float32), expected.y, atol=atol)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_sharded_batch_costs_one_collective_each_way(mesh, dtype):
    cut, whole = NamedSharding(mesh, P("i")), NamedSharding(mesh, P())
    x = jax.ShapeDtypeStruct((64, 8, 8, 16), dtype, sharding=cut)
    c = jax.ShapeDtypeStruct((16,), jnp.float32, sharding=whole)

    def forward(x, scale, bias):
        return jaxbn.batch_norm(x, scale, bias)[0]

    def backward(dy, *args):
        return jax.vjp(forward, *args)[1](dy)

    assert compiled_collectives(forward, x, c, c) == 1
    assert compiled_collectives(backward, x, x, c, c) == 2
