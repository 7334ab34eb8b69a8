# SPDX-License-Identifier: Apache-2.0
"""Residual networks (He et al. 2015) as people write them, with Flax's norm or ours.

ReLU and residual are outside the norm, as in every existing model, or fused into ours.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxbn
import jaxbn.linen

FLAX, OUTSIDE, FUSED = "flax", "jaxbn, ReLU outside", "jaxbn, ReLU fused"
SAVING = "jaxbn, inputs saved"  # by `save_inputs`; ReLU fused where no residual is
NORMS = FLAX, OUTSIDE, FUSED


def normalized(norm, dtype, x, *, residual=None, relu=True, name):
    """A norm, or none, the residual and ReLU."""
    options = {"use_running_average": False, "momentum": 0.9, "name": name}
    if norm == FUSED or (norm == SAVING and residual is None):
        activation = jax.nn.relu if relu else None
        module = jaxbn.linen.BatchNorm(activation=activation, **options)
        return module(x, residual=residual)
    if norm in (OUTSIDE, SAVING):
        x = jaxbn.linen.BatchNorm(**options)(x)
    elif norm == FLAX:
        x = nn.BatchNorm(dtype=dtype, **options)(x)
    x = x if residual is None else x + residual
    return nn.relu(x) if relu else x


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the channels."""

    norm: str
    dtype: jnp.dtype
    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = functools.partial(normalized, self.norm, self.dtype)
        y = norm(conv(self.channels, (1, 1))(x), name="bn1")
        y = norm(conv(self.channels, (3, 3), self.stride)(y), name="bn2")
        y = conv(4 * self.channels, (1, 1))(y)
        if x.shape != y.shape:
            x = conv(4 * self.channels, (1, 1), self.stride)(x)
            x = norm(x, relu=False, name="bn4")
        return norm(y, residual=x, name="bn3")


class Block(nn.Module):
    """One bottleneck between a convolution and 1000 classes."""

    norm: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(256, (3, 3), dtype=self.dtype)(x)
        x = Bottleneck(self.norm, self.dtype, 64)(x)
        return nn.Dense(1000, dtype=self.dtype)(x.mean((1, 2))).astype(jnp.float32)


class Stem(nn.Module):
    """7x7 with a stride of 2, and a pool with another."""

    norm: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(64, (7, 7), 2, use_bias=False, dtype=self.dtype)(x)
        x = normalized(self.norm, self.dtype, x, name="bn")
        return nn.max_pool(x, (3, 3), (2, 2), "SAME")


class ResNet(nn.Module):
    """A stem, stages of bottlenecks, and 1000 classes."""

    norm: str
    dtype: jnp.dtype
    stages: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        stem, bottleneck = Stem, Bottleneck
        if self.norm == SAVING:
            saving = functools.partial(nn.remat, policy=jaxbn.save_inputs)
            stem, bottleneck = saving(Stem), saving(Bottleneck)
        x = stem(self.norm, self.dtype)(x)
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                channels = 64 * 2**stage
                x = bottleneck(self.norm, self.dtype, channels, stride)(x)
        return nn.Dense(1000, dtype=self.dtype)(x.mean((1, 2))).astype(jnp.float32)


def bottleneck(norm, dtype, batch):
    """One bottleneck of 256 channels on images of 56 x 56."""
    return Block(norm, dtype), (batch, 56, 56, 3)


def one_a_stage(norm, dtype, batch):
    """A stem and one bottleneck a stage."""
    return ResNet(norm, dtype, (1, 1, 1, 1)), (batch, 224, 224, 3)


def resnet50(norm, dtype, batch):
    """ResNet-50."""
    return ResNet(norm, dtype, (3, 4, 6, 3)), (batch, 224, 224, 3)


def training_step(network: nn.Module, shape, dtype) -> tuple[Callable, tuple]:
    """A step of SGD with momentum, and the shapes of its arguments."""
    x = jax.ShapeDtypeStruct(shape, dtype)
    variables = jax.eval_shape(network.init, jax.random.key(0), x)
    y = jax.eval_shape(lambda v, x: network.apply(v, x, mutable=True)[0], variables, x)
    params, stats = variables["params"], variables.get("batch_stats", {})
    shapes = params, params, stats, x, y

    def step(params, velocity, stats, x, target):
        def loss(params):
            variables = {"params": params, "batch_stats": stats}
            y, new = network.apply(variables, x, mutable=["batch_stats"])
            error = y.astype(jnp.float32) - target.astype(jnp.float32)
            return jnp.mean(error**2), new.get("batch_stats", {})

        (value, new), slope = jax.value_and_grad(loss, has_aux=True)(params)
        velocity = jax.tree.map(lambda v, s: 0.9 * v + s, velocity, slope)
        params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)
        return params, velocity, new, value

    return step, shapes
