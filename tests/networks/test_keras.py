# SPDX-License-Identifier: Apache-2.0
"""Keras 3 networks: values, training, nested models."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
import pytest

from jaxbn.convert import from_keras, to_keras
from tests.networks.nets import IMAGE, RATE, Trained, batches, check_equal, check_near

FIELDS = {"epsilon": 1e-3, "momentum": 0.8}


def start():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    norm = {"epsilon": 1e-3, "momentum": 0.8}
    return keras.Sequential(
        [
            keras.Input(IMAGE),
            layers.Conv2D(6, 3, padding="same", name="conv"),
            layers.BatchNormalization(name="norm1", **norm),
            layers.Activation("softplus"),
            layers.DepthwiseConv2D(
                3, padding="same", depth_multiplier=2, use_bias=False, name="depthwise"
            ),
            layers.BatchNormalization(name="norm2", **norm),
            layers.Activation("softplus"),
            layers.Conv2DTranspose(4, 3, 2, name="up"),
            layers.Flatten(),
            layers.Dense(5, name="head"),
        ]
    )


def train(net):
    net.compile(keras.optimizers.SGD(RATE), "mse")
    for x, target in batches():
        net.train_on_batch(x, target)


def values(net):
    return {v.path: np.asarray(v) for v in net.weights}


def names(path):
    return f"sequential/{path}"


@pytest.fixture(autouse=True)
def fresh_names():
    keras.backend.clear_session()


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_inference_and_training_are_the_same(kind, transpose_kernel):
    net = start()
    train(net)
    before = values(net)
    model = Trained(
        kind,
        FIELDS,
        lambda model: from_keras(model, net, names=names),
        transpose_kernel=transpose_kernel,
    )
    check_near(model.answers(), net(model.x, training=False))
    assert to_keras(model.model, net, variables=model.variables, names=names) is net
    check_equal(values(net), before)
    train(net)
    theirs = values(net)
    model.train()
    to_keras(model.model, net, variables=model.variables, names=names)
    for path, value in values(net).items():
        check_near(value, theirs[path])


def test_a_model_in_a_model_by_the_order():
    """Without names, and with the automatic ones of a second network."""
    from flax import linen as nn

    import jaxbn.linen

    start()
    image = keras.Input((4, 4, 3))
    inner = keras.Sequential(
        [
            keras.layers.Conv2D(3, 3, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(3, 3, padding="same"),
        ]
    )
    net = keras.Model(image, keras.layers.Conv2D(3, 3)(inner(image)))

    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(3, (3, 3))(x)
            norm = jaxbn.linen.BatchNorm(use_running_average=True, epsilon=1e-3)
            return nn.Conv(3, (3, 3))(norm(x))

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Conv(3, (3, 3), padding="VALID")(Inner()(x))

    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)

    def init(key):
        return Outer().init(key, x)

    variables = from_keras(init, net)
    check_near(jax.jit(Outer().apply)(variables, x), net(x))


def test_another_momentum_is_refused_and_nothing_is_changed():
    net = start()
    before = values(net)
    with pytest.raises(ValueError, match=r"`norm1` must have `momentum=0.8`"):
        fields = FIELDS | {"momentum": 0.99}
        Trained("nnx", fields, lambda m: to_keras(m, net, names=names) and m)
    check_equal(values(net), before)
    with pytest.raises(TypeError, match=r"a built `keras.Model` with weights"):
        Trained("nnx", FIELDS, lambda m: from_keras(m, keras.Sequential()))
