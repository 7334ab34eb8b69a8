# SPDX-License-Identifier: Apache-2.0
"""The networks. A norm reaches them as a constructor, so that one line swaps it."""

import functools
from collections.abc import Callable

from flax import linen as nn
from jaxtyping import Array, Float

from experiments.config import ModelConfig, NormConfig
from jaxbn.linen import BatchNorm, BatchRenorm

NormConstructor = Callable[..., Callable[[Array], Array]]
"""Takes `use_running_average` and returns a module, or a function."""


def no_norm(*, use_running_average: bool) -> Callable:
    """Leaves its input as it is."""
    return lambda x: x


def of_each_example(
    module: Callable[..., nn.Module], *, use_running_average: bool
) -> nn.Module:
    """A norm that does the same in training and inference."""
    return module()


def make_norm(config: NormConfig) -> NormConstructor:
    """Returns the constructor of the norm that the config names."""
    partial = functools.partial
    if config.kind == "none":
        return no_norm
    if config.kind == "layer":
        return partial(of_each_example, partial(nn.LayerNorm, epsilon=config.epsilon))
    if config.kind == "group":
        group = {"num_groups": None, "group_size": config.group_size}
        module = partial(nn.GroupNorm, epsilon=config.epsilon, **group)
        return partial(of_each_example, module)
    return partial(
        BatchRenorm if config.kind == "renorm" else BatchNorm,
        momentum=config.momentum,
        epsilon=config.epsilon,
        virtual_batch_size=config.virtual_batch_size,
        debias=config.debias,
    )


class Dense(nn.Module):
    """Two hidden layers, each followed by norm and ReLU."""

    norm: NormConstructor
    num_classes: int
    hidden: tuple[int, ...] = (128, 64)

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b k"]:
        """Returns the logits."""
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = nn.Dense(width)(x)
            x = nn.relu(self.norm(use_running_average=not train)(x))
        return nn.Dense(self.num_classes)(x)


class Conv(nn.Module):
    """One convolution of 3x3, norm, ReLU, and a linear layer."""

    norm: NormConstructor
    num_classes: int
    channels: int = 32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b k"]:
        """Returns the logits."""
        x = nn.Conv(self.channels, (3, 3))(x)
        x = nn.relu(self.norm(use_running_average=not train)(x))
        return nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1))


@functools.cache  # the same object again, so that nothing is compiled again
def make_model(model: ModelConfig, norm: NormConfig, num_classes: int) -> nn.Module:
    """Returns the network that the config names."""
    network = {"dense": Dense, "conv": Conv}[model.name]
    return network(norm=make_norm(norm), num_classes=num_classes)
