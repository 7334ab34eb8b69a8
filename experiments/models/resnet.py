# SPDX-License-Identifier: Apache-2.0
"""Residual networks: He et al. 2015 (https://arxiv.org/abs/1512.03385), v1.5.

v1.5 strides in the 3x3 convolution of a bottleneck, as PyTorch's do. The last scale of
each block starts at 0 (Goyal et al. 2017, https://arxiv.org/abs/1706.02677), so that
the block starts as the identity.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from experiments.models.network import Images, Mask, Network
from experiments.models.norms import Norm

KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BasicBlock(nn.Module):
    """Two convolutions of 3x3."""

    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable]
    channels: int
    stride: int

    expansion = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        """Returns the sum with the input, after ReLU."""
        y = self.conv(self.channels, (3, 3), self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.channels, (3, 3), name="conv2")(y)
        y = self.norm(name="bn2", last=True)(y)
        return nn.relu(y + _shortcut(self, x, y.shape))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the channels."""

    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable]
    channels: int
    stride: int

    expansion = 4

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        """Returns the sum with the input, after ReLU."""
        y = self.conv(self.channels, (1, 1), name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.channels, (3, 3), self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(self.expansion * self.channels, (1, 1), name="conv3")(y)
        y = self.norm(name="bn3", last=True)(y)
        return nn.relu(y + _shortcut(self, x, y.shape))


def _shortcut(block: Any, x: Array, shape: tuple[int, ...]) -> Array:
    """Returns the input, or its projection if the shape changes."""
    if x.shape == shape:
        return x
    x = block.conv(shape[-1], (1, 1), block.stride, name="downsample_conv")(x)
    return block.norm(name="downsample_bn")(x)


class ResNet(Network):
    """Four stages of blocks between a stem and a mean over the image."""

    stages: tuple[int, ...] = (2, 2, 2, 2)
    block: type[BasicBlock] | type[Bottleneck] = BasicBlock
    width: int = 64

    last_layer = "fc"

    def features(self, x: Images, train: bool, mask: Mask) -> Float[Array, "b f"]:
        """Returns the means over the image.

        Images of up to 64 pixels have the stem for CIFAR, one 3x3 convolution; larger
        ones that for ImageNet, 7x7 with stride 2 and a 3x3 maximum with stride 2.
        """
        conv = functools.partial(_conv, self.dtype)
        norm = functools.partial(_norm, self.norm, not train, mask)
        large = x.shape[1] > 64
        x = conv(self.width, (7, 7) if large else (3, 3), 2 if large else 1,
                 name="conv1")(x)  # fmt: skip
        x = nn.relu(norm(name="bn1")(x))
        if large:
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # ReLU is never below 0
            x = nn.max_pool(x, (3, 3), (2, 2), "VALID")
        for stage, num_blocks in enumerate(self.stages):
            for number in range(num_blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                name = f"layer{stage + 1}_{number}"
                x = self.block(conv, norm, self.width * 2**stage, stride, name=name)(x)
        return jnp.mean(x, (1, 2))


def _conv(
    dtype: DTypeLike | None,
    channels: int,
    size: tuple[int, int],
    stride: int = 1,
    *,
    name: str,
) -> nn.Module:
    """Makes a convolution padded as in PyTorch: equally on both sides."""
    return nn.Conv(
        channels,
        size,
        stride,
        padding=[(k // 2, k // 2) for k in size],
        use_bias=False,
        dtype=dtype,
        kernel_init=KERNEL_INIT,
        name=name,
    )


def _norm(
    norm: Norm, use_running_average: bool, mask: Any, *, name: str, last: bool = False
) -> Callable:
    start = {"scale_init": nn.initializers.zeros} if last else {}
    return norm(use_running_average=use_running_average, mask=mask, name=name, **start)


RESNETS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": functools.partial(ResNet, stages=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": functools.partial(ResNet, stages=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": functools.partial(ResNet, stages=(3, 4, 6, 3), block=Bottleneck),
    "resnet101": functools.partial(ResNet, stages=(3, 4, 23, 3), block=Bottleneck),
}
