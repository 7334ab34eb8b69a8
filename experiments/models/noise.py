# SPDX-License-Identifier: Apache-2.0
"""Noise that moves the distribution of each unit at every step.

Santurkar et al. 2018 (https://arxiv.org/abs/1805.11604, section 2.2) put it behind
batch norm, so that the distributions are not steady any more.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class Noise(nn.Module):
    """Adds to every value noise whose mean and spread each unit draws anew each time.

    With strength s: the mean is uniform in [-s, s], the standard deviation in [0, s].
    """

    strength: float

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Draws from the stream `dropout`."""
        of_mean, of_spread, of_values = jax.random.split(self.make_rng("dropout"), 3)
        features = x.shape[-1:]
        mean = jax.random.uniform(of_mean, features, minval=-1.0)
        spread = jax.random.uniform(of_spread, features)
        drawn = mean + spread * jax.random.normal(of_values, x.shape)
        return x + jnp.asarray(self.strength * drawn, x.dtype)
