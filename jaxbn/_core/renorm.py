# SPDX-License-Identifier: Apache-2.0
r"""The corrections of batch renorm: from the batch's statistics to the running ones.

$$r = \operatorname{clip}\left(\frac{\sigma_B}{\sigma}, \frac1{r_{max}}, r_{max}\right),
  \qquad d = \operatorname{clip}\left(\frac{\mu_B - \mu}{\sigma}, -d_{max},
  d_{max}\right), \qquad \hat x = \frac{x - \mu_B}{\sigma_B}\, r + d$$

No gradient flows through r and d, so that they only change scale and bias:
$\gamma r$ and $\beta + \gamma d$.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Target(NamedTuple):
    """The running statistics, and how far a batch is corrected towards them."""

    mean: Float[Array, "*c"]
    var: Float[Array, "*c"]
    max_scale: Float[Array, ""]
    max_shift: Float[Array, ""]


class Correction(NamedTuple):
    """r and d."""

    scale: Float[Array, "*c"]
    shift: Float[Array, "*c"]

    def of_scale(self, scale: Float[Array, "*#c"] | None) -> Float[Array, "*#c"]:
        r"""$\gamma r$, or its tangent."""
        return self.scale if scale is None else scale * self.scale

    def of_bias(
        self, scale: Float[Array, "*#c"] | None, bias: Float[Array, "*#c"] | None
    ) -> Float[Array, "*#c"]:
        r"""$\beta + \gamma d$, or its tangent."""
        shift = self.shift if scale is None else scale * self.shift
        return shift if bias is None else shift + bias


def correction(
    anchor: Float[Array, "*c"],
    shift: Float[Array, "*c"],
    var: Float[Array, "*c"],
    target: Target,
    epsilon: float | Float[Array, ""],
) -> Correction:
    """Returns r and d for a batch whose mean is anchor + shift."""
    running = jnp.sqrt(target.var + epsilon)
    running = jnp.where(running > 0, running, 1)  # epsilon may be 0
    ratio = jnp.sqrt(var + epsilon) / running
    # The anchor is near the mean: subtracted first, nothing is lost at a large one.
    apart = ((anchor - target.mean) + shift) / running
    return Correction(
        jnp.clip(ratio, 1 / target.max_scale, target.max_scale),
        jnp.clip(apart, -target.max_shift, target.max_shift),
    )
