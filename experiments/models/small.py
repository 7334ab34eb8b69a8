# SPDX-License-Identifier: Apache-2.0
"""The networks of the introductions to batch norm."""

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from experiments.models.norms import Norm


class Dense(nn.Module):
    """Two hidden layers, each followed by norm and ReLU."""

    norm: Norm
    num_classes: int
    dtype: DTypeLike | None = None
    hidden: tuple[int, ...] = (128, 64)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        train: bool,
        mask: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b k"]:
        """Returns the logits."""
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = nn.Dense(width, dtype=self.dtype)(x)
            x = nn.relu(self.norm(use_running_average=not train, mask=mask)(x))
        return nn.Dense(self.num_classes, dtype=self.dtype)(x)


class Conv(nn.Module):
    """One convolution of 3x3, norm, ReLU, and a linear layer."""

    norm: Norm
    num_classes: int
    dtype: DTypeLike | None = None
    channels: int = 32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        train: bool,
        mask: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b k"]:
        """Returns the logits."""
        x = nn.Conv(self.channels, (3, 3), dtype=self.dtype)(x)
        x = nn.relu(self.norm(use_running_average=not train, mask=mask)(x))
        return nn.Dense(self.num_classes, dtype=self.dtype)(x.reshape(x.shape[0], -1))
