# SPDX-License-Identifier: Apache-2.0
"""Haiku's networks: values, training, and the counter of the averages."""

from functools import partial

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from jaxbn.convert import from_haiku, to_haiku
from tests.networks.nets import RATE, Trained, batches, check_equal, check_near, loss

FIELDS = {"epsilon": 1e-3, "momentum": 0.8, "debias": True}


def forward(x, train):
    def norm(name):
        return partial(
            hk.BatchNorm(True, True, 0.8, eps=1e-3, name=name), is_training=train
        )

    x = jax.nn.softplus(norm("norm1")(hk.Conv2D(6, 3, name="conv")(x)))
    x = hk.DepthwiseConv2D(2, 3, with_bias=False, name="depthwise")(x)
    x = hk.Conv2DTranspose(4, 3, 2, padding="VALID", name="up")(
        jax.nn.softplus(norm("norm2")(x))
    )
    return hk.Linear(5, name="head")(hk.Flatten()(x))


NET = hk.transform_with_state(forward)


@jax.jit
def step(params, state, x, target):
    def objective(params):
        y, new = NET.apply(params, state, None, x, True)
        return loss(y, target), new

    gradient, state = jax.grad(objective, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p - RATE * g, params, gradient), state


def train(params, state):
    for x, target in batches():
        params, state = step(params, state, x, target)
    return params, state


def start():
    return NET.init(jax.random.key(0), next(batches())[0], True)


def test_inference_and_training_are_the_same(kind):
    trees = train(*start())
    model = Trained(kind, FIELDS, lambda model: from_haiku(model, *trees))
    theirs, _ = NET.apply(*trees, None, model.x, False)
    check_near(model.answers(), theirs)
    back = to_haiku(model.model, *trees, variables=model.variables)
    check_equal(back, trees)
    model.train()
    ours = to_haiku(model.model, *trees, variables=model.variables)
    new = train(*trees)
    assert new[1]["norm1/~/mean_ema"]["counter"] == 40
    jax.tree.map(check_near, ours, new)


def test_from_the_first_step(kind):
    """The counter is 0, and the averages are 0, which no start of ours is."""
    trees = start()
    model = Trained(kind, FIELDS, lambda model: from_haiku(model, *trees))
    model.train()
    jax.tree.map(
        check_near,
        to_haiku(model.model, *trees, variables=model.variables),
        train(*trees),
    )


def test_without_debias_the_averages_are_settled():
    trees = train(*start())
    fields = FIELDS | {"debias": False}
    model = Trained("nnx", fields, lambda model: from_haiku(model, *trees))
    model.train()
    _, state = to_haiku(model.model, *trees)
    ema = state["norm1/~/mean_ema"]
    check_near(ema["average"].ravel(), model.model.norm1.mean[...])
    check_equal(ema["average"], ema["hidden"])
    assert np.all(ema["counter"] == 2**24)


def test_names_of_submodules():
    """Automatic names, in a tree whose order a function under `jit` has lost."""
    from flax import linen as nn

    def forward(x):
        return hk.nets.MLP([3, 3, 2])(x)

    net = hk.without_apply_rng(hk.transform(forward))
    x = jnp.ones((1, 2))
    params = jax.jit(net.init)(jax.random.key(0), x)

    class Mlp(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(3)(x))
            return nn.Dense(2)(nn.relu(nn.Dense(3)(x)))

    variables = from_haiku(lambda key: Mlp().init(key, x), params, {})
    check_near(Mlp().apply(variables, x), net.apply(params, x))
