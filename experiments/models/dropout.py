# SPDX-License-Identifier: Apache-2.0
"""Dropout whose draws do not depend on how the batch is cut."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float


class Dropout(nn.Module):
    """Zeros with probability `rate`, the rest divided by 1 - rate.

    Each example draws by its place in the whole batch, so that shards draw what one
    device would.
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
