# SPDX-License-Identifier: Apache-2.0
"""Equinox's networks: values, training, and its two modes of batch norm."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbn.nnx
from jaxbn.convert import from_equinox, to_equinox
from tests.networks.nets import (
    FLAT,
    RATE,
    Trained,
    batches,
    check_equal,
    check_near,
    loss,
)

FIELDS = {"epsilon": 1e-3, "momentum": 0.8, "debias": True}
FLATTEN = {"head": FLAT}


class Net(eqx.Module):
    conv: eqx.nn.Conv2d
    norm1: eqx.nn.BatchNorm
    depthwise: eqx.nn.Conv2d
    norm2: eqx.nn.BatchNorm
    up: eqx.nn.ConvTranspose2d
    head: eqx.nn.Linear

    def __init__(self, key, mode):
        keys = jax.random.split(key, 4)
        options = {"axis_name": "batch", "eps": 1e-3, "momentum": 0.8, "mode": mode}
        self.conv = eqx.nn.Conv2d(3, 6, 3, padding=1, key=keys[0])
        self.norm1 = eqx.nn.BatchNorm(6, **options)
        options |= {"channelwise_affine": True}
        self.depthwise = eqx.nn.Conv2d(
            6, 12, 3, padding=1, groups=6, use_bias=False, key=keys[1]
        )
        self.norm2 = eqx.nn.BatchNorm(12, **options)
        self.up = eqx.nn.ConvTranspose2d(12, 4, 3, 2, key=keys[2])
        self.head = eqx.nn.Linear(int(np.prod(FLAT)), 5, key=keys[3])

    def __call__(self, x, state):
        x, state = self.norm1(self.conv(x), state)
        x, state = self.norm2(self.depthwise(jax.nn.softplus(x)), state)
        return self.head(self.up(jax.nn.softplus(x)).ravel()), state


def apply(net, state, x):
    x = jnp.moveaxis(jnp.asarray(x), -1, 1)
    mapped = jax.vmap(net, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return mapped(x, state)


@eqx.filter_jit
def step(net, state, x, target):
    @eqx.filter_grad(has_aux=True)
    def gradient(net):
        y, new = apply(net, state, x)
        return loss(y, target), new

    changes, state = gradient(net)
    return eqx.apply_updates(net, jax.tree.map(lambda g: -RATE * g, changes)), state


def train(net, state):
    for x, target in batches():
        net, state = step(net, state, x, target)
    return net, state


def start(mode):
    return eqx.nn.make_with_state(Net)(jax.random.key(0), mode)


def check_all_near(*pairs):
    arrays = [jax.tree.leaves(eqx.filter(pair, eqx.is_array)) for pair in pairs]
    for ours, theirs in zip(*arrays, strict=True):
        check_near(ours, theirs)


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_inference_is_the_same_and_so_is_training_by_the_batch(kind, mode):
    """In `mode="ema"` Equinox trains by its running statistics, as no other does."""
    pair = train(*start(mode))
    fields = FIELDS | {"debias": mode == "batch"}
    model = Trained(kind, fields, lambda m: from_equinox(m, *pair, flatten=FLATTEN))
    theirs, _ = apply(eqx.nn.inference_mode(pair[0]), pair[1], model.x)
    check_near(model.answers(), theirs)
    back = to_equinox(model.model, *pair, variables=model.variables, flatten=FLATTEN)
    check_equal(back, pair)
    if mode == "batch":
        model.train()
        new = train(*pair)
        ours = to_equinox(
            model.model, *pair, variables=model.variables, flatten=FLATTEN
        )
        check_all_near(ours, new)


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_new_statistics_for_each_mode(mode):
    """What ours trained, Equinox answers with."""
    pair = start(mode)
    fields = FIELDS | {"debias": False}
    model = Trained("nnx", fields, lambda m: from_equinox(m, *pair, flatten=FLATTEN))
    model.train()
    net, state = to_equinox(model.model, *pair, flatten=FLATTEN)
    theirs, _ = apply(eqx.nn.inference_mode(net), state, model.x)
    check_near(model.answers(), theirs)


def test_from_the_first_step():
    """Equinox's initial variance of 1 stays in its average, ours is left out."""
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
        3, "batch", momentum=0.8, mode="batch"
    )
    fields = {"momentum": 0.8, "debias": True, "rngs": nnx.Rngs(0)}
    ours = from_equinox(jaxbn.nnx.BatchNorm(3, **fields), norm, state)
    x = jax.random.normal(jax.random.key(0), (5, 8, 3)) * 2 + 1
    for k in range(5):
        ours(x[k])
        _, state = jax.vmap(norm, (0, None), (0, None), axis_name="batch")(x[k], state)
    trained = from_equinox(jaxbn.nnx.BatchNorm(3, **fields), norm, state)
    check_near(trained.mean[...], ours.mean[...])
    check_near(trained.var[...], ours.var[...] + 0.8**5 / (1 - 0.8**5))


def test_what_is_missing_is_named():
    net, state = start("batch")
    with pytest.raises(ValueError, match=r"`state` must be given for .* `norm1`"):
        Trained("nnx", FIELDS, lambda m: from_equinox(m, net, flatten=FLATTEN))
    with pytest.raises(ValueError, match=r"`norm1` must have `momentum=0.8`"):
        fields = FIELDS | {"momentum": 0.9}
        Trained("nnx", fields, lambda m: from_equinox(m, net, state, flatten=FLATTEN))
    with pytest.raises(TypeError, match="an Equinox module with arrays"):
        Trained("nnx", FIELDS, lambda m: from_equinox(m, len, state))
