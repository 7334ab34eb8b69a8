# SPDX-License-Identifier: Apache-2.0
"""What all networks share: how they are called, and the last layer."""

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from experiments.models.norms import Norm

Images = Float[Array, "b h w c"]
Mask = Bool[Array, " b"] | None
"""The examples that count; None: all."""


class Network(nn.Module):
    """Features, which subclasses define, and a dense layer for the logits."""

    norm: Norm
    num_classes: int
    dtype: DTypeLike | None = None

    last_layer = None  # its name; None: Flax's

    @nn.compact
    def __call__(
        self, x: Images, *, train: bool, mask: Mask = None
    ) -> Float[Array, "b k"]:
        """Returns the logits."""
        x = self.features(x, train, mask)
        return nn.Dense(self.num_classes, dtype=self.dtype, name=self.last_layer)(x)

    def features(self, x: Images, train: bool, mask: Mask) -> Float[Array, "b f"]:
        """Returns the input of the last layer."""
        raise NotImplementedError
