# SPDX-License-Identifier: Apache-2.0
"""Errors of modules and of the variables of models."""

import jax.numpy as jnp
from flax import nnx

import jaxbn.conversion
import jaxbn.nnx


def from_linen(**stats):
    """The error of variables with these statistics for a norm of three features."""
    norm = jaxbn.nnx.BatchNorm(3, use_scale=False, use_bias=False, rngs=nnx.Rngs(0))
    stats = {name: value for name, value in stats.items() if value is not None}
    jaxbn.conversion.from_linen(norm, {"params": {}, "batch_stats": stats})


ERRORS = [
    (
        lambda: jaxbn.nnx.BatchNorm(3, use_running_average=None, rngs=nnx.Rngs(0))(
            jnp.ones((2, 3))
        ),
        ValueError,
        (
            "`use_running_average` must be given to the constructor or to the call, got "
            "None in both; `model.train()` and `model.eval()` set it too."
        ),
    ),
    (
        lambda: from_linen(mean=jnp.zeros(3), variance=jnp.zeros(3)),
        ValueError,
        "`variables` must have the names of `module`; it lacks ['batch_stats/var'], and also has ['batch_stats/variance'].",
    ),
    (
        lambda: from_linen(mean=jnp.zeros(4), var=jnp.ones(3)),
        ValueError,
        "`variables` must have the shapes of `module`, got (4,) for `batch_stats/mean`, which has (3,).",
    ),
]
