# SPDX-License-Identifier: Apache-2.0
"""The networks of the introductions to batch norm."""

from collections.abc import Callable

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from experiments.models.dropout import Dropout
from experiments.models.norms import Norm


class Small(nn.Module):
    """What the small networks share: what stands after the weights of a hidden layer.

    Norm and activation, in this order or the other, and dropout.
    """

    norm: Norm
    num_classes: int
    dtype: DTypeLike | None = None
    activation: Callable = nn.relu
    norm_first: bool = True
    dropout: float = 0.0
    axis_name: str | None = None

    def after_weights(
        self, x: Float[Array, "b *d c"], train: bool, mask: Bool[Array, " b"] | None
    ) -> Float[Array, "b *d c"]:
        """Returns the values of the units."""
        norm = self.norm(use_running_average=not train, mask=mask)
        x = norm(x) if self.norm_first else x
        self.sow("intermediates", "activation_input", x)
        x = self.activation(x)
        x = x if self.norm_first else norm(x)
        if self.dropout and train:
            x = Dropout(self.dropout, self.axis_name)(x)
        return x


class Dense(Small):
    """Hidden layers of so many units."""

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
            x = self.after_weights(x, train, mask)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x)


class Conv(Small):
    """Convolutions of 3x3 with so many channels, and a linear layer."""

    hidden: tuple[int, ...] = (32,)
    convolve: Callable | None = None  # XLA's, unless given

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        train: bool,
        mask: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b k"]:
        """Returns the logits."""
        for channels in self.hidden:
            x = nn.Conv(
                channels, (3, 3), dtype=self.dtype, conv_general_dilated=self.convolve
            )(x)
            x = self.after_weights(x, train, mask)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x.reshape(x.shape[0], -1))
