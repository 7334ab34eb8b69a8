# SPDX-License-Identifier: Apache-2.0
"""Under `save_inputs` norms save their input and statistics, and move once."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import jaxprs_in_params

import jaxbn
import jaxbn.linen
import jaxbn.nnx
from jaxbn._core.training import INPUT, STATISTICS
from tests.shards import mapped

ROWS, WIDTH = 24, 5
SHAPES = {"w1": (3, WIDTH), "w2": (WIDTH, WIDTH), "scale": (WIDTH,), "bias": (WIDTH,)}
PARAMS = {
    name: 0.3 + jax.random.normal(jax.random.key(k), shape)
    for k, (name, shape) in enumerate(SHAPES.items())
}
X = jax.random.normal(jax.random.key(9), (ROWS, 3))


def block(params, x, fused=False, **options):
    """Two layers, the second without a norm; the moments come back too."""
    y, moments = jaxbn.batch_norm(
        x @ params["w1"],
        params["scale"],
        params["bias"],
        activation=jax.nn.relu if fused else None,
        **options,
    )
    return jnp.tanh(jnp.sin(y if fused else nn.relu(y)) @ params["w2"]), moments


def saving(function, **options):
    return jax.checkpoint(function, policy=jaxbn.save_inputs, **options)


def gradients(function, **options):
    def loss(params, x):
        y, moments = function(params, x, **options)
        return jnp.sum(y**2), moments

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


def residuals(function, *arguments):
    """The shapes that the backward pass is given, besides arguments and constants."""
    _, backward = jax.vjp(function, *arguments)
    known = {id(leaf) for leaf in jax.tree.leaves(arguments)}
    leaves = {id(leaf): leaf for leaf in jax.tree.leaves(backward)}
    return [leaf for key, leaf in leaves.items() if key not in known]


CALLS = {
    "plain": {},
    "relu fused": {"fused": True},
    "masked": {"mask": jnp.arange(ROWS) < 20},
    "virtual": {"virtual_batch_size": 6},
    "segments": {"segment_ids": jnp.arange(ROWS) % 2, "num_segments": 2},
}


@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_the_gradient_is_the_same_bit_for_bit(options):
    """Where each operation is compiled alone, so that XLA fuses nothing otherwise."""
    function = functools.partial(block, **options)
    expected = gradients(function)(PARAMS, X)
    found = gradients(saving(function))(PARAMS, X)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    compiled = jax.jit(gradients(saving(function)))(PARAMS, X)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        compiled,
        expected,
    )


@pytest.mark.parametrize("fused", [False, True])
def test_what_is_saved(fused):
    """The input and vectors of features; none of y, its ReLU, sine and product."""
    function = functools.partial(block, fused=fused)
    full = (ROWS, WIDTH)
    expected = X @ PARAMS["w1"]
    plain = residuals(lambda *a: function(*a)[0], PARAMS, X)
    kept = residuals(lambda *a: saving(function)(*a)[0], PARAMS, X)
    assert sum(a.shape == full for a in plain) >= 4
    large = [a for a in kept if a.shape == full]
    assert large
    for array in large:
        np.testing.assert_allclose(array, expected, rtol=1e-5)
    assert all(a.shape in (full, (WIDTH,), ()) for a in kept)


def equations(jaxpr):
    """All equations of a program and of those in it."""
    for one in jaxpr.eqns:
        yield one
        for inner in jaxprs_in_params(one.params):
            yield from equations(inner)


def count(jaxpr, *primitives):
    return sum(one.primitive.name in primitives for one in equations(jaxpr))


def test_products_are_not_repeated():
    """Only the last one is, which no norm follows; without a policy both are."""
    step = jax.make_jaxpr(gradients(block))(PARAMS, X).jaxpr
    some = jax.make_jaxpr(gradients(saving(block)))(PARAMS, X).jaxpr
    whole = jax.make_jaxpr(gradients(jax.checkpoint(block)))(PARAMS, X).jaxpr
    numbers = [count(j, "dot_general") for j in (step, some, whole)]
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]


def test_collectives_are_not_repeated():
    def numbers(wrap):
        sharded = functools.partial(block, axis_name="i")

        def loss(shard, params):
            return gradients(wrap(sharded))(params, shard)[1][0]

        cut = X.reshape(2, ROWS // 2, 3)
        program = jax.make_jaxpr(mapped("shard_map", loss, num=2))(cut, PARAMS)
        return count(program.jaxpr, "psum", "psum_invariant", "all_gather")

    assert numbers(saving) == numbers(lambda f: f) < numbers(jax.checkpoint)


def test_only_a_derivative_has_names():
    forward = jax.make_jaxpr(block)(PARAMS, X).jaxpr
    assert not count(forward, "name")
    inference = jax.make_jaxpr(jax.grad(lambda x: jaxbn.normalize(x, x[0], x[0]).sum()))
    assert not count(inference(X).jaxpr, "name")
    step = jax.make_jaxpr(gradients(block))(PARAMS, X).jaxpr
    names = [e.params["name"] for e in equations(step) if e.primitive.name == "name"]
    assert set(names) == {INPUT, STATISTICS} == {"jaxbn_input", "jaxbn_statistics"}


def test_names_of_users_are_not_saved():
    def named(x):
        return jnp.sin(checkpoint_name(jnp.sin(x), "hidden"))

    assert not residuals(saving(named), X)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(WIDTH)(x)
        x = jaxbn.linen.BatchNorm(use_running_average=False, momentum=0.5)(x)
        return nn.Dense(2)(jnp.sin(nn.relu(x)))


def test_linen():
    """`nn.remat`; statistics move as without, and the input alone is saved."""
    found = []
    for kind in (Block, nn.remat(Block, policy=jaxbn.save_inputs)):
        module = kind()
        variables = module.init(jax.random.key(0), X)

        def loss(params, module=module, variables=variables):
            variables = {**variables, "params": params}
            y, updates = module.apply(variables, X, mutable="batch_stats")
            return jnp.sum(y**2), updates["batch_stats"]

        params = variables["params"]
        gradient, stats = jax.grad(loss, has_aux=True)(params)
        kept = residuals(lambda p, loss=loss: loss(p)[0], params)
        large = [a for a in kept if a.shape == (ROWS, WIDTH)]
        found.append((gradient, stats, large))
    (expected, moved, plain), (gradient, stats, large) = found
    jax.tree.map(np.testing.assert_array_equal, gradient, expected)
    jax.tree.map(np.testing.assert_array_equal, stats, moved)
    x = X @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None]
    np.testing.assert_allclose(
        stats["BatchNorm_0"]["mean"], 0.5 * x.mean(0), rtol=1e-5, atol=1e-6
    )
    assert len(plain) >= 3
    assert len({np.asarray(a).tobytes() for a in large}) == 1
    np.testing.assert_allclose(large[0], x, rtol=1e-5, atol=1e-6)


def test_nnx():
    """`nnx.remat`, likewise."""

    class Layers(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.first = nnx.Linear(3, WIDTH, rngs=rngs)
            self.norm = jaxbn.nnx.BatchNorm(WIDTH, momentum=0.5, rngs=rngs)
            self.last = nnx.Linear(WIDTH, 2, rngs=rngs)

        def __call__(self, x):
            return self.last(jnp.sin(nnx.relu(self.norm(self.first(x)))))

    def call(model, x):
        return model(x)

    found = []
    for forward in (call, nnx.remat(call, policy=jaxbn.save_inputs)):
        model = Layers()

        def loss(model, forward=forward):
            return jnp.sum(forward(model, X) ** 2)

        gradient = nnx.grad(loss)(model)
        x = model.first(X)
        np.testing.assert_allclose(
            model.norm.mean[...], 0.5 * x.mean(0), rtol=1e-5, atol=1e-6
        )
        graph, params, rest = nnx.split(Layers(), nnx.Param, ...)

        def pure(params, forward=forward, graph=graph, rest=rest):
            return forward(nnx.merge(graph, params, rest, copy=True), X)

        large = [a for a in residuals(pure, params) if a.shape == (ROWS, WIDTH)]
        found.append((nnx.to_pure_dict(gradient), large))
    (expected, plain), (gradient, large) = found
    jax.tree.map(np.testing.assert_array_equal, gradient, expected)
    assert len({np.asarray(a).tobytes() for a in plain}) >= 3
    assert len({np.asarray(a).tobytes() for a in large}) == 1
    np.testing.assert_allclose(large[0], x, rtol=1e-5, atol=1e-6)
