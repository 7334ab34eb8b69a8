# SPDX-License-Identifier: Apache-2.0
"""The Linen and the NNX module as the same pure function of variables and input."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx


def linen(features, kind="BatchNorm", **fields):
    """Returns `apply(variables, x, **call) -> y, variables`."""
    module = getattr(jaxbn.linen, kind)(**fields)

    def apply(variables, x, **call):
        y, updates = module.apply(variables, x, mutable=["batch_stats"], **call)
        return y, {**variables, **updates}

    return apply


def of_nnx(features, kind="BatchNorm", **fields):
    """The same of the NNX module."""

    def apply(variables, x, **call):
        module = getattr(jaxbn.nnx, kind)(features, rngs=nnx.Rngs(0), **fields)
        for collection in variables.values():
            for name, value in collection.items():
                getattr(module, name).set_value(jnp.asarray(value))
        y = module(x, **call)
        stats = {n: getattr(module, n)[...] for n in variables["batch_stats"]}
        return y, {**variables, "batch_stats": stats}

    return apply


LAYERS = {"linen": linen, "nnx": of_nnx}


class Slash(nn.Module):
    """A name with a slash, as Flax allows it."""

    @nn.compact
    def __call__(self, x):
        return jaxbn.linen.BatchNorm(use_running_average=False, name="a/b")(x)


def start(features, *, affine=True, count=False):
    """The variables before the first step."""
    stats = jaxbn.init_running_stats(features)
    batch_stats = {"mean": stats.mean, "var": stats.var}
    if count:
        batch_stats["count"] = stats.count
    params = {"scale": jnp.ones(features), "bias": jnp.zeros(features)}
    return {"params": params if affine else {}, "batch_stats": batch_stats}


def train(apply, variables, batches, **call):
    """Carries the variables through the batches, by `lax.scan`."""

    def step(variables, x):
        return apply(variables, x, use_running_average=False, **call)[1], None

    return jax.jit(lambda v, b: jax.lax.scan(step, v, b)[0])(variables, batches)
