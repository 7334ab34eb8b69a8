# SPDX-License-Identifier: Apache-2.0
"""Meshes of axes that types know (JAX's default), that they do not, and both mixed.

Whatever is cut, by examples, space or features, the result is that of one device, and
the output is cut as the input is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbn
import jaxbn.linen
import jaxbn.nnx

EXPLICIT, AUTO = AxisType.Explicit, AxisType.Auto
KINDS = {
    "explicit": (EXPLICIT, EXPLICIT),
    "auto": (AUTO, AUTO),
    "mixed": (EXPLICIT, AUTO),
}
CUTS = {
    "examples": P("data"),
    "space": P("data", "model"),
    "features": P(None, None, None, "model"),
    "both": P("data", None, None, "model"),
}
SHAPE = (16, 4, 4, 8)


def statistics():
    return jaxbn.init_running_stats(8)


def gradients(**options):
    """Output, moments and gradients."""

    def step(x, mask, scale, bias):
        def norm(x, scale, bias):
            return jaxbn.batch_norm(x, scale, bias, **options)

        (y, moments), vjp = jax.vjp(norm, x, scale, bias)
        return y, moments, vjp((x * x, jax.tree.map(jnp.zeros_like, moments)))

    return step


def masked(x, mask, scale, bias):
    return gradients(mask=mask)(x, mask, scale, bias)


def masked_by_feature(x, mask, scale, bias):
    mask = mask.reshape(16, 1, 1, 1) | (x > 0.5)
    return gradients(mask=mask)(x, mask, scale, bias)


def weighted(x, mask, scale, bias):
    weights = jnp.where(mask, jnp.linspace(0.1, 2.0, 16), 0.0)
    return jaxbn.batch_norm(x, scale, bias, mask=weights, activation=jnp.tanh)


def of_linen(x, *_):
    norm = jaxbn.linen.BatchNorm(use_running_average=False, debias=True)
    variables = norm.init(jax.random.key(0), x)
    return norm.apply(variables, x, mutable=["batch_stats"])


def of_nnx(x, *_):
    norm = jaxbn.nnx.BatchNorm(8, virtual_batch_size=4, rngs=nnx.Rngs(0))
    return norm(x), norm.mean[...], norm.var[...]


STEPS = {
    "plain": gradients(),
    "relu": gradients(activation=jax.nn.relu),
    "masked": masked,
    "weighted": weighted,
    "masked_by_feature": masked_by_feature,
    "large_mean": lambda x, *_: jaxbn.batch_norm(x + 1e4),
    "residual": lambda x, *_: jaxbn.batch_norm(x, residual=x, activation=jax.nn.relu),
    "virtual_of_a_shard": gradients(virtual_batch_size=4),
    "virtual_of_half": gradients(virtual_batch_size=2),
    "virtual_of_two_shards": gradients(virtual_batch_size=8),
    "complex": lambda x, *_: jaxbn.batch_norm(jax.lax.complex(x, x * x)),
    "moments": lambda x, *_: jaxbn.compute_moments(x),
    "inference": lambda x, m, s, b: jaxbn.normalize(x, b, s * s, s, b),
    "renorm": lambda x, *_: jaxbn.batch_renorm(x, statistics()),
    "update": lambda x, *_: jaxbn.update_running_stats(
        statistics(), jaxbn.compute_moments(x), debias=True
    ),
    "linen": of_linen,
    "nnx": of_nnx,
}


def mesh_of(kind):
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=KINDS[kind])


@pytest.fixture
def arguments(rng):
    x = jnp.asarray(rng.normal(3, 2, SHAPE), jnp.float32)
    scale, bias = jnp.asarray(rng.normal(size=(2, 8)), jnp.float32)
    return x, jnp.arange(16) < 11, scale, bias


def cut(mesh, spec, arguments):
    """The arguments cut over the mesh."""
    examples, *_, features = (*spec, None, None, None, None)[:4]
    specs = spec, P(examples), P(features), P(features)
    return jax.device_put(arguments, tuple(NamedSharding(mesh, s) for s in specs))


def check(got, expected):
    for one, other in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


# Every step where both kinds of axes are cut; every mesh and cut with a few steps.
COMBINATIONS = [("explicit", "both", step) for step in STEPS] + [
    (kind, spec, step)
    for kind in KINDS
    for spec in CUTS
    for step in ("relu", "masked", "virtual_of_two_shards", "linen")
    if (kind, spec) != ("explicit", "both")
]


@pytest.mark.parametrize(("kind", "spec", "step"), COMBINATIONS)
@pytest.mark.usefixtures("as_users_run_it")
def test_is_as_on_one_device(kind, step, spec, arguments):
    function, mesh = jax.jit(STEPS[step]), mesh_of(kind)
    expected = function(*arguments)
    parts = cut(mesh, CUTS[spec], arguments)
    got = function(*parts)
    check(got, expected)
    y = jax.tree.leaves(got)[0]
    if y.shape == SHAPE:
        assert y.sharding.is_equivalent_to(parts[0].sharding, 4)
    with jax.set_mesh(mesh):
        check(function(*parts), expected)


@pytest.mark.parametrize("spec", ["examples", "both"])
@pytest.mark.parametrize("step", ["relu", "masked", "virtual_of_two_shards", "nnx"])
@pytest.mark.usefixtures("as_users_run_it")
def test_outside_jit(step, spec, arguments):
    mesh = mesh_of("explicit")
    expected = STEPS[step](*arguments)
    check(STEPS[step](*cut(mesh, CUTS[spec], arguments)), expected)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"virtual_batch_size": 8}, {"axis_index_groups": [[0, 1], [2, 3]]}],
    ids=["whole", "virtual", "groups"],
)
@pytest.mark.parametrize("spec", ["examples", "both"])
def test_shard_map_over_one_of_two_axes(spec, options, check_vma, arguments):
    """The other is one of JAX's types still."""
    mesh = mesh_of("explicit")

    def local(x, mask):
        return jaxbn.batch_norm(x, mask=mask, axis_name="data", **options)[0]

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=P("data"), out_specs=P("data"),
        axis_names={"data"}, check_vma=check_vma,
    )  # fmt: skip

    def step(norm, x, mask):
        y, vjp = jax.vjp(lambda x: norm(x, mask), x)
        return y, vjp(x * x)

    def whole(x, mask):
        size = None if not options else 8
        return jaxbn.batch_norm(x, mask=mask, virtual_batch_size=size)[0]

    expected = jax.jit(step, static_argnums=0)(whole, *arguments[:2])
    with jax.set_mesh(mesh):
        parts = cut(mesh, CUTS[spec], arguments)[:2]
        check(jax.jit(step, static_argnums=0)(mapped, *parts), expected)
