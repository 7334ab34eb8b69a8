# SPDX-License-Identifier: Apache-2.0
"""The small networks without recurrence: dense, convolutional, and deep and plain."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from experiments.models.network import Images, Mask, Network
from experiments.models.norms import Norm

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "sigmoid": nn.sigmoid}


class Small(Network):
    """What the dense and the convolutional network of the introductions share.

    The fields have the names and values of `ModelConfig`.
    """

    axis_name: str | None = None
    hidden: tuple[int, ...] | None = None
    activation: str = "relu"
    placement: str = "before"
    dropout: float = 0.0

    def after_weights(
        self, x: Float[Array, "b *d c"], train: bool, mask: Mask
    ) -> Float[Array, "b *d c"]:
        """Applies norm and activation, in this order or the other, and dropout."""
        norm = self.norm(use_running_average=not train, mask=mask)
        norm_first = self.placement == "before"
        x = norm(x) if norm_first else x
        self.sow("intermediates", "activation_input", x)
        x = ACTIVATIONS[self.activation](x)
        x = x if norm_first else norm(x)
        if self.dropout and train:
            x = Dropout(self.dropout, self.axis_name)(x)
        return x


class Dense(Small):
    """Dense hidden layers, of 128 and 64 units by default."""

    def features(self, x: Images, train: bool, mask: Mask) -> Float[Array, "b f"]:
        """Returns the input of the last layer."""
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden or (128, 64):
            x = nn.Dense(width, dtype=self.dtype)(x)
            x = self.after_weights(x, train, mask)
        return x


class Conv(Small):
    """3x3 convolutions, one with 32 channels by default, and a dense layer."""

    convolution: str = "xla"

    def features(self, x: Images, train: bool, mask: Mask) -> Float[Array, "b f"]:
        """Returns the input of the last layer."""
        convolve = convolve_by_patches if self.convolution == "patches" else None
        for channels in self.hidden or (32,):
            x = nn.Conv(
                channels, (3, 3), dtype=self.dtype, conv_general_dilated=convolve
            )(x)
            x = self.after_weights(x, train, mask)
        return x.reshape(x.shape[0], -1)


class Layer(nn.Module):
    """Weights, norm, activation."""

    norm: Norm
    width: int
    dtype: DTypeLike | None
    activation: str
    train: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b c"], mask: Mask
    ) -> tuple[Float[Array, "b w"], None]:
        """Returns the units' values, and nothing for `nn.scan` to stack."""
        x = nn.Dense(self.width, dtype=self.dtype)(x)
        norm = self.norm(use_running_average=not self.train, mask=mask)
        return ACTIVATIONS[self.activation](norm(x)), None


class Plain(Network):
    """`depth` layers of one width, without residuals.

    All but the first are one scan, which compiles once.
    """

    activation: str = "relu"
    depth: int = 2
    width: int = 32

    def features(self, x: Images, train: bool, mask: Mask) -> Float[Array, "b f"]:
        """Returns the input of the last layer."""
        fields = (self.norm, self.width, self.dtype, self.activation, train)
        x, _ = Layer(*fields)(x.reshape(x.shape[0], -1), mask)
        others = nn.scan(
            Layer,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
            length=self.depth - 1,
        )
        x, _ = others(*fields)(x, mask)
        return x


class Dropout(nn.Module):
    """Zeros values with probability `rate`, and divides the rest by 1 - rate.

    Each example draws by its place in the whole batch, so that the draws do not depend
    on how the batch is sharded.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *d c"]) -> Float[Array, "b *d c"]:
        """Draws from the stream `dropout`."""
        size = x.shape[0]
        first = 0 if self.axis_name is None else lax.axis_index(self.axis_name) * size
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            self.make_rng("dropout"), first + jnp.arange(size)
        )
        keep = jax.vmap(
            lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:])
        )(keys)
        return jnp.where(keep, x / (1 - self.rate), 0)


def convolve_by_patches(
    image: Float[Array, "b h w c"], kernel: Float[Array, "m n c d"], *_: Any, **__: Any
) -> Float[Array, "b h w d"]:
    """Convolves by one product of matrices, several times faster on a CPU than XLA.

    For `flax.linen.Conv` with odd kernels, stride 1 and padding `SAME` only, and for
    small images.
    """
    m, n, c, d = kernel.shape
    height, width = image.shape[1:3]
    padded = jnp.pad(image, ((0, 0), (m // 2, m // 2), (n // 2, n // 2), (0, 0)))
    shifted = [
        padded[:, i : i + height, j : j + width] for i in range(m) for j in range(n)
    ]
    return jnp.concatenate(shifted, -1) @ kernel.reshape(m * n * c, d)
