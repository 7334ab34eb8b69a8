# SPDX-License-Identifier: Apache-2.0
"""A network that is deep and nothing else: no residuals, layers of one width."""

from collections.abc import Callable

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from experiments.models.norms import Norm


class Layer(nn.Module):
    """Weights, norm, activation."""

    norm: Norm
    width: int
    dtype: DTypeLike | None
    activation: Callable
    train: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b c"], mask: Bool[Array, " b"] | None
    ) -> tuple[Float[Array, "b w"], None]:
        """Returns the units' values, and nothing for `nn.scan` to stack."""
        x = nn.Dense(self.width, dtype=self.dtype)(x)
        norm = self.norm(use_running_average=not self.train, mask=mask)
        return self.activation(norm(x)), None


class Plain(nn.Module):
    """`depth` layers; all but the first are one scan, which compiles once."""

    norm: Norm
    num_classes: int
    dtype: DTypeLike | None = None
    activation: Callable = nn.relu
    depth: int = 2
    width: int = 32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        train: bool,
        mask: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b k"]:
        """Returns the logits."""
        fields = (self.norm, self.width, self.dtype, self.activation, train)
        x, _ = Layer(*fields)(x.reshape(x.shape[0], -1), mask)
        others = nn.scan(
            Layer,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
            length=self.depth - 1,
        )
        x, _ = others(*fields)(x, mask)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x)
