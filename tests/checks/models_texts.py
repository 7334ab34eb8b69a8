# SPDX-License-Identifier: Apache-2.0
"""Errors of modules and of the variables of models."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import jaxbn.convert
import jaxbn.linen
import jaxbn.nnx


def from_linen(**stats):
    """The error of variables with these statistics for a norm of three features."""
    norm = jaxbn.nnx.BatchNorm(3, use_scale=False, use_bias=False, rngs=nnx.Rngs(0))
    stats = {name: value for name, value in stats.items() if value is not None}
    jaxbn.convert.from_linen(norm, {"params": {}, "batch_stats": stats})


def without_count():
    """A step from Flax's statistics with a plain average of all updates."""
    model = nn.Sequential([jaxbn.linen.BatchNorm(momentum=None)])
    x = jnp.ones((2, 3))
    stats = {"layers_0": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}
    params = {"layers_0": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}
    variables = {"params": params, "batch_stats": stats}
    model.apply(variables, x, use_running_average=False, mutable=["batch_stats"])


def debias_set_later():
    """A call of a layer that was made without `debias`."""
    norm = jaxbn.nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    norm.debias = True
    norm(jnp.ones((2, 3)))


def schedule_at_the_call():
    norm = jaxbn.linen.BatchRenorm(use_running_average=False)
    norm.init(jax.random.key(0), jnp.ones((2, 3)), max_scale=lambda n: 3.0)


ERRORS = [
    (
        debias_set_later,
        ValueError,
        (
            "`count` must be in a layer with `debias`, `momentum=None` or a schedule; one "
            "of them was set after it was made. Set it in the constructor, or add "
            "`norm.count = nnx.BatchStat(jnp.zeros_like(norm.var[...]))`."
        ),
    ),
    (
        schedule_at_the_call,
        TypeError,
        (
            "`max_scale` must be a number here, got a function; give a schedule to the "
            "constructor of `BatchRenorm`, which counts its updates."
        ),
    ),
    (
        lambda: jaxbn.nnx.BatchNorm(3, rngs=nnx.Rngs(0))(
            jnp.ones((2, 3)), bias=jnp.ones((2, 3))
        ),
        ValueError,
        (
            "`bias` must be learned by the layer or given at the call, got both; "
            "construct the layer with `use_bias=False`."
        ),
    ),
    (
        without_count,
        ValueError,
        (
            '`variables["batch_stats"]["layers_0"]` must have `count` with `momentum=None`, '
            "got `mean` and `var` alone, as a layer with a momentum stores them. Say how many "
            'updates they stand for: `variables["batch_stats"]["layers_0"]["count"] = '
            "jnp.full_like(var, 1000)`, or keep a `momentum`."
        ),
    ),
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
