# SPDX-License-Identifier: Apache-2.0
"""One small network with every kind of layer, in Linen and NNX, and its training.

A convolution, a depthwise one and a transposed one, two batch norms, and a Dense layer
after Flatten. Softplus has no kink, so that rounding stays rounding.
"""

from functools import partial

import jax
import numpy as np
from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict

import jaxbn.linen
import jaxbn.nnx

IMAGE = (8, 8, 3)
BATCH, STEPS, RATE = 16, 20, 0.003
FLAT = (17, 17, 4)
LAYERS = ("conv", "norm1", "depthwise", "norm2", "up", "head")
TOLERANCE = 2e-5  # float32 through 20 steps, relative to the largest


class LinenNet(nn.Module):
    fields: FrozenDict
    transpose_kernel: bool = False

    @nn.compact
    def __call__(self, x, train):
        norm = partial(
            jaxbn.linen.BatchNorm, use_running_average=not train, **self.fields
        )
        x = nn.softplus(norm(name="norm1")(nn.Conv(6, (3, 3), name="conv")(x)))
        depthwise = partial(nn.Conv, feature_group_count=6, use_bias=False)
        x = nn.softplus(norm(name="norm2")(depthwise(12, (3, 3), name="depthwise")(x)))
        up = partial(nn.ConvTranspose, transpose_kernel=self.transpose_kernel)
        x = up(4, (3, 3), (2, 2), "VALID", name="up")(x)
        return nn.Dense(5, name="head")(x.reshape(len(x), -1))


class NnxNet(nnx.Module):
    def __init__(self, fields, transpose_kernel=False):
        rngs = nnx.Rngs(0)
        norm = partial(jaxbn.nnx.BatchNorm, rngs=rngs, **fields)
        self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.norm1 = norm(6)
        depthwise = partial(nnx.Conv, feature_group_count=6, use_bias=False)
        self.depthwise = depthwise(6, 12, (3, 3), rngs=rngs)
        self.norm2 = norm(12)
        up = {"strides": 2, "padding": "VALID", "transpose_kernel": transpose_kernel}
        self.up = nnx.ConvTranspose(12, 4, (3, 3), rngs=rngs, **up)
        self.head = nnx.Linear(int(np.prod(FLAT)), 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.softplus(self.norm1(self.conv(x)))
        x = nnx.softplus(self.norm2(self.depthwise(x)))
        return self.head(self.up(x).reshape(len(x), -1))


def batches():
    """Of images whose statistics change from batch to batch, and targets."""
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        mean, spread = rng.normal(0, 1), rng.uniform(0.5, 2)
        x = rng.normal(mean, spread, (BATCH, *IMAGE))
        yield x.astype(np.float32), rng.normal(size=(BATCH, 5)).astype(np.float32)


def loss(y, target):
    return ((y - target) ** 2).mean()


class Trained:
    """A model with the weights of another library: its answers, and after training."""

    def __init__(self, kind, fields, convert, **options):
        """By `convert(model)`, which is `from_` of a library."""
        self.x = next(batches())[0]
        if kind == "linen":
            net = LinenNet(FrozenDict(fields), **options)
            self.model = lambda key: net.init(key, self.x, train=False)
            self.variables = convert(self.model)
            self.net = net
        else:
            self.model, self.variables = NnxNet(fields, **options), None
            assert convert(self.model) is self.model

    def answers(self):
        if self.variables is None:
            self.model.eval()
            y = self.model(self.x)
            self.model.train()
            return y
        return self.net.apply(self.variables, self.x, train=False)

    def train(self):
        for x, target in batches():
            if self.variables is None:
                _nnx_step(self.model, x, target)
            else:
                self.variables = _linen_step(self.net, self.variables, x, target)


@partial(jax.jit, static_argnums=0)
def _linen_step(net, variables, x, target):
    def objective(params):
        given = {**variables, "params": params}
        y, new = net.apply(given, x, train=True, mutable=["batch_stats"])
        return loss(y, target), new

    gradient, new = jax.grad(objective, has_aux=True)(variables["params"])
    params = jax.tree.map(lambda p, g: p - RATE * g, variables["params"], gradient)
    return {"params": params, **new}


@nnx.jit
def _nnx_step(model, x, target):
    gradient = nnx.grad(lambda model: loss(model(x), target))(model)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda p, g: p - RATE * g, params, gradient))


def check_near(ours, theirs):
    """Relative to the largest; a bias without gradient is 0 but for rounding."""
    theirs = np.asarray(theirs, np.float64)
    error = np.abs(np.asarray(ours, np.float64) - theirs).max()
    assert error <= TOLERANCE * max(np.abs(theirs).max(), 0.01)


def check_equal(ours, theirs):
    """Trees of arrays bit for bit, dtypes too."""
    ours, theirs = jax.tree.flatten(ours), jax.tree.flatten(theirs)
    assert ours[1] == theirs[1]
    for a, b in zip(ours[0], theirs[0], strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
