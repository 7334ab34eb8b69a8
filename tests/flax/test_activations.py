# SPDX-License-Identifier: Apache-2.0
"""Activations that own or close over values, within the layer as after it.

Each test runs a network with the activation in the layer and one that applies it to the
layer's output: outputs, gradients and parameter trees must be equal.
"""

import chex
import flax.linen as nn
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
from jaxbn._core.affine import OF_JAX
from tests import shards

pytestmark = pytest.mark.usefixtures("as_users_run_it")
MODES = (True, False)  # training, inference


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(1, 2, (8, 4)), jnp.float32)


class Nnx(nnx.Module):
    """A norm and a learned activation, which is used once more."""

    def __init__(self, within, training):
        self.slope = nnx.PReLU()
        self.within = within
        self.norm = jaxbn.nnx.BatchNorm(
            4,
            activation=self.slope if within else None,
            use_running_average=not training,
            rngs=nnx.Rngs(0),
        )

    def __call__(self, x):
        y = self.norm(x)
        if not self.within:
            y = self.slope(y)
        return self.slope(y - 1)


def by_name(state):
    """The leaves by the last part of their path: the slope is where it comes first."""
    return {path[-1]: leaf[...] for path, leaf in nnx.to_flat_state(state)}


def nnx_slope(model, x):
    return nnx.grad(lambda m, x: jnp.sum(m(x) * x))(model, x)


NNX = {
    "eager": nnx_slope,
    "jit": nnx.jit(nnx_slope),
    "remat": nnx.grad(nnx.remat(lambda m, x: jnp.sum(m(x) * x))),
}


@pytest.mark.parametrize("how", NNX)
@pytest.mark.parametrize("training", MODES)
def test_nnx(how, training, x):
    slopes = []
    for within in (True, False):
        model = Nnx(within, training)
        first = by_name(NNX[how](model, x))
        # Another value, and the same layer: nothing is remembered.
        model.slope.negative_slope.set_value(jnp.float32(0.7))
        slopes.append((first, by_name(NNX[how](model, x))))
    chex.assert_trees_all_close(*slopes, rtol=1e-5, atol=1e-5)
    assert abs(slopes[0][0]["negative_slope"]) > 1


@pytest.mark.parametrize("training", MODES)
def test_nnx_under_scan_and_vmap(training, x):
    """Three layers in a row, and three side by side, each with its own slope."""

    @nnx.vmap(in_axes=(0, None), out_axes=0)
    def make(slope, within):
        model = Nnx(within, training)
        model.slope.negative_slope.set_value(slope)
        return model

    def run(within):
        models = make(jnp.array([0.1, 0.2, 0.5]), within)

        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def in_a_row(x, model):
            return model(x)

        @nnx.vmap(in_axes=(None, 0))
        def side_by_side(x, model):
            return model(x)

        def loss(models):
            return jnp.sum(in_a_row(x, models)) + jnp.sum(side_by_side(x, models) ** 2)

        return by_name(nnx.grad(loss)(models))

    chex.assert_trees_all_close(run(True), run(False), rtol=1e-4, atol=1e-4)


class Linen(nn.Module):
    """A norm and a learned activation, which is used once more."""

    within: bool
    training: bool

    @nn.compact
    def __call__(self, x):
        slope = nn.PReLU(name="slope")
        norm = jaxbn.linen.BatchNorm(
            use_running_average=not self.training,
            activation=slope if self.within else None,
            name="norm",
        )
        y = norm(x)
        return slope((y if self.within else slope(y)) - 1)


class Scanned(nn.Module):
    """Three of them in a row."""

    within: bool
    training: bool

    @nn.compact
    def __call__(self, x):
        one = nn.remat(Linen)(self.within, self.training)
        in_a_row = nn.scan(
            lambda layer, x, _: (layer(x), None),
            length=3,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
        )
        return in_a_row(one, x, None)[0]


@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("network", [Linen, Scanned])
@pytest.mark.parametrize("training", MODES)
def test_linen(network, how, training, x):
    slopes, trees = [], []
    for within in (True, False):
        model = network(within, training)
        variables = model.init(jax.random.key(0), x)
        trees.append(variables)

        def loss(params, model=model, variables=variables):
            variables = {**variables, "params": params}
            y, updates = model.apply(variables, x, mutable=["batch_stats"])
            return jnp.sum(y * x), updates

        slopes.append(how(jax.grad(loss, has_aux=True))(variables["params"]))
    chex.assert_trees_all_equal(*trees)
    chex.assert_trees_all_close(*slopes, rtol=1e-5, atol=1e-5)


def test_a_layer_alone_owns_its_activation(x):
    norm = jaxbn.linen.BatchNorm(use_running_average=False, activation=nn.PReLU())
    variables = norm.init(jax.random.key(0), x)
    assert sorted(variables["params"]) == ["activation", "bias", "scale"]

    def loss(params):
        variables_of = {**variables, "params": params}
        return jnp.sum(norm.apply(variables_of, x, mutable=["batch_stats"])[0])

    slope = jax.grad(loss)(variables["params"])["activation"]["negative_slope"]
    y = norm.apply(variables, x, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(slope, jnp.sum(jnp.minimum(y, 0)) / 0.01, rtol=1e-5)


class Leak:
    """An object whose method is the activation."""

    def __init__(self, slope):
        self.slope = slope

    def __call__(self, z):
        return jnp.where(z > 0, z, self.slope * z)


ACTIVATIONS = {
    "closure": lambda slope: lambda z: jnp.where(z > 0, z, slope * z),
    "object": Leak,
    "bound_method": lambda slope: Leak(slope).__call__,
}


def training(activation, x):
    stats = jaxbn.init_running_stats(4)
    return (
        jaxbn.batch_norm(x, activation=activation)[0].sum()
        + jaxbn.batch_norm(
            x[:, :, None], axis=1, virtual_batch_size=4, activation=activation
        )[0].sum()
        + jaxbn.batch_renorm(x, stats, mask=x[:, 0] > 0, activation=activation)[0].sum()
    )


def inference(activation, x):
    mean, var, _ = jaxbn.init_running_stats(4)
    return jaxbn.normalize(x, mean, var, residual=x, activation=activation).sum()


UNDER = {
    "grad": lambda f, x: jax.grad(f)(0.3, x),
    "jit": lambda f, x: jax.jit(jax.grad(f))(0.3, x),
    "remat": lambda f, x: jax.grad(jax.checkpoint(f))(0.3, x),
    "jvp": lambda f, x: jax.jvp(lambda s: f(s, x), (0.3,), (1.0,))[1],
    "vmap": lambda f, x: jax.vmap(jax.grad(f), (0, None))(jnp.array([0.3, 0.3]), x)[1],
    "scan": lambda f, x: jax.grad(
        lambda s: jax.lax.scan(lambda c, x: (c + f(s, x), None), 0.0, x[None])[0]
    )(0.3),
}


@pytest.mark.parametrize("under", UNDER)
@pytest.mark.parametrize("make", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("function", [training, inference])
def test_closes_over_a_traced_scalar(function, make, under, x):
    def loss(slope, x):
        return function(make(slope), x)

    # Leaky with slope 1 is no activation: the derivative is the sum of what is below 0.
    expected = loss(1.0, x) - loss(0.0, x)
    np.testing.assert_allclose(UNDER[under](loss, x), expected, rtol=1e-5)


def test_a_global_value_may_change(x):
    """The activation is a closure with one identity and two values."""
    value = [2.0]

    def activation(z):
        return value[0] * z

    before = jaxbn.batch_norm(x, activation=activation)[0]
    value[0] = 3.0
    after = jaxbn.batch_norm(x, activation=activation)[0]
    np.testing.assert_allclose(after, 1.5 * before, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rounds_as_one_of_jax(dtype, x):
    """A function of the user is applied before the output is rounded, as JAX's are."""
    x = x.astype(dtype)
    one, other = (
        jaxbn.batch_norm(x, activation=a, residual=x, mask=x[:, 0] > 0)[0]
        for a in (jax.nn.silu, lambda z: jax.nn.silu(z))
    )
    assert one.dtype == other.dtype == dtype
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("activation", OF_JAX)
def test_of_jax_is_as_applied_afterwards(activation, x):
    """Output and gradients of each activation that is part of the derivative."""

    def step(activation):
        def loss(x, scale, bias):
            y, _ = jaxbn.batch_norm(x, scale, bias, residual=x, activation=activation)
            return jnp.sum(y**2), y

        vectors = jnp.linspace(0.5, 2.0, 4), jnp.linspace(-1.0, 1.0, 4)
        return jax.grad(loss, (0, 1, 2), has_aux=True)(x, *vectors)

    chex.assert_trees_all_close(
        step(activation), step(lambda z: activation(z)), rtol=1e-4, atol=1e-5
    )


def slope_of(x, slope, **options):
    def loss(slope):
        y, _ = jaxbn.batch_norm(
            x, activation=lambda z: jnp.where(z > 0, z, slope * z), **options
        )
        return jnp.sum(y)

    return jax.grad(loss)(slope)


@pytest.mark.parametrize("mode", shards.MODES)
def test_shards(mode, x):
    """Each shard's part of the gradient; checked by `shard_map`, the whole."""
    expected = slope_of(x, 0.3)
    slopes = shards.mapped(mode, lambda x, s: slope_of(x, s, axis_name="i"))(
        x.reshape(4, 2, 4), jnp.float32(0.3)
    )
    slopes = np.asarray(slopes)
    together = slopes[0] if mode == "shard_map" else slopes.sum()
    np.testing.assert_allclose(together, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_meshes(kind, x):
    mesh = shards.mesh(4, kind)
    placed = jax.device_put(x, NamedSharding(mesh, P("i")))
    with jax.set_mesh(mesh):
        slope = jax.jit(slope_of)(placed, 0.3)
    np.testing.assert_allclose(slope, slope_of(x, 0.3), rtol=1e-5)


@pytest.mark.parametrize("flag", [jax.debug_nans, jax.debug_infs])
def test_debug_flags_find_nothing(flag, x):
    with flag(True):
        slope_of(x, 0.3, mask=x > 1)
        slope_of(x, 0.3, mask=jnp.zeros((8, 1), bool))
