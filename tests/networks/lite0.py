# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 in Linen and NNX, with jaxbn's batch norm.

Tan & Le 2019 (https://arxiv.org/abs/1905.11946); the Lite variants have no squeeze and
excitation, ReLU6 for swish, and a stem and a head of fixed width. Images of 224 pixels,
`(x - 127) / 128`.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jaxtyping import Array, Float

import jaxbn.linen
import jaxbn.nnx

SIZE = 224
CLASSES = 1000
# As TensorFlow trained it, and as the PyTorch package sets it.
NORM = {"epsilon": 1e-3, "momentum": 0.99, "unbiased": True}


class Stage(NamedTuple):
    """Blocks of one width; the first has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    features: int


STEM, HEAD = 32, 1280
STAGES = [
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
]


def blocks() -> Iterator[tuple[int, int, int, int]]:
    """Kernel, stride, expansion and features of each block."""
    for stage in STAGES:
        for number in range(stage.repeats):
            stride = 1 if number else stage.stride
            yield stage.kernel, stride, stage.expansion, stage.features


class LinenBlock(nn.Module):
    """An inverted residual: wider, depthwise, narrow."""

    kernel: int
    stride: int
    expansion: int
    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool = False
    ) -> Float[Array, "b h2 w2 c2"]:
        """Adds the input where the shapes are equal."""
        conv = partial(nn.Conv, use_bias=False)
        norm = partial(jaxbn.linen.BatchNorm, use_running_average=not train, **NORM)
        y = x
        wide = self.expansion * x.shape[-1]
        if self.expansion != 1:
            y = nn.relu6(norm()(conv(wide, (1, 1))(y)))
        size = (self.kernel, self.kernel)
        y = conv(wide, size, self.stride, feature_group_count=wide)(y)
        y = nn.relu6(norm()(y))
        y = norm()(conv(self.features, (1, 1))(y))
        return x + y if x.shape == y.shape else y


class LinenLite0(nn.Module):
    """The whole network."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], train: bool = False
    ) -> Float[Array, "b classes"]:
        """Returns the logits."""
        conv = partial(nn.Conv, use_bias=False)
        norm = partial(jaxbn.linen.BatchNorm, use_running_average=not train, **NORM)
        x = nn.relu6(norm(name="stem_norm")(conv(STEM, (3, 3), 2, name="stem")(x)))
        for number, block in enumerate(blocks()):
            x = LinenBlock(*block, name=f"block{number}")(x, train)
        x = nn.relu6(norm(name="head_norm")(conv(HEAD, (1, 1), name="head")(x)))
        x = nn.Dropout(0.2, deterministic=not train)(jnp.mean(x, (1, 2)))
        return nn.Dense(CLASSES, name="fc")(x)


class NnxBlock(nnx.Module):
    """As `LinenBlock`."""

    def __init__(
        self,
        inputs: int,
        kernel: int,
        stride: int,
        expansion: int,
        features: int,
        *,
        rngs: nnx.Rngs,
    ):
        """Makes the layers in the order of use."""
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        norm = partial(jaxbn.nnx.BatchNorm, rngs=rngs, **NORM)
        wide = expansion * inputs
        self.expand = expansion != 1
        if self.expand:
            self.expand_conv, self.bn0 = conv(inputs, wide, (1, 1)), norm(wide)
        size = (kernel, kernel)
        self.depthwise_conv = conv(wide, wide, size, stride, feature_group_count=wide)
        self.bn1 = norm(wide)
        self.project_conv, self.bn2 = conv(wide, features, (1, 1)), norm(features)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        """Adds the input where the shapes are equal."""
        y = x
        if self.expand:
            y = nnx.relu6(self.bn0(self.expand_conv(y)))
        y = nnx.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if x.shape == y.shape else y


class NnxLite0(nnx.Module):
    """The whole network."""

    def __init__(self, *, rngs: nnx.Rngs):
        """Makes the layers in the order of use."""
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        norm = partial(jaxbn.nnx.BatchNorm, rngs=rngs, **NORM)
        self.conv_stem, self.bn0 = conv(3, STEM, (3, 3), 2), norm(STEM)
        inputs, made = STEM, []
        for block in blocks():
            made.append(NnxBlock(inputs, *block, rngs=rngs))
            inputs = block[-1]
        self.blocks = nnx.List(made)
        self.conv_head, self.bn1 = conv(inputs, HEAD, (1, 1)), norm(HEAD)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.fc = nnx.Linear(HEAD, CLASSES, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b classes"]:
        """Returns the logits."""
        x = nnx.relu6(self.bn0(self.conv_stem(x)))
        for block in self.blocks:
            x = block(x)
        x = nnx.relu6(self.bn1(self.conv_head(x)))
        return self.fc(self.dropout(jnp.mean(x, (1, 2))))
