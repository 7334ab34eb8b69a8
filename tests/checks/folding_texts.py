# SPDX-License-Identifier: Apache-2.0
"""Errors of folding."""

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxbn
from jaxbn.folding import fold

PARAMS = {"kernel": jnp.eye(2), "mean": jnp.zeros(2), "var": jnp.ones(2)}
X = jnp.ones((3, 2))


def network(params, x):
    y = x @ params["kernel"]
    return jaxbn.normalize(y, params["mean"], params["var"])


def in_training():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = nn.BatchNorm(use_running_average=False, name="norm")
            return norm(nn.Dense(2, use_bias=False)(x))

    variables = Net().init(jax.random.key(0), X)
    fold(lambda v, x: Net().apply(v, x, mutable=["batch_stats"])[0], variables, X)


def by_shape(params, x):
    """Another network for small batches."""
    y = network(params, x)
    return y if len(x) > 1 else jnp.tanh(y)


def folded(params, x=X, of=network):
    fold(of, PARAMS, X).function(params, x)


FOLDED = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}

ERRORS = [
    (
        lambda: jax.jit(lambda p: fold(network, p, X)(X))(PARAMS),
        TypeError,
        "`params` must have values to compute with, got a traced array at `kernel`; call `fold` outside of `jax.jit` and other transformations.",
    ),
    (
        lambda: fold(network, {**PARAMS, "name": "net"}, X),
        TypeError,
        "`params` must hold arrays, got str at `name`; close over what is no array, as `eqx.partition` and `nnx.split` do.",
    ),
    (
        lambda: fold(network, {**PARAMS, "a": {"b": X}, "a/b": X}, X),
        ValueError,
        "`params` must have a path for each leaf, got several leaves at `a/b`; rename the key with a slash.",
    ),
    (
        in_training,
        ValueError,
        "`function` must be in inference mode, got a scale by statistics of the batch in `Net/norm`; give the norm `use_running_average=True`, or call `model.eval()`.",
    ),
    (
        lambda: fold(lambda p, x: x @ p["kernel"], PARAMS, X),
        ValueError,
        "`function` must have a norm, which scales a value by what depends on `params` alone, got none; give all parameters and statistics in `params`, not by a closure.",
    ),
    (
        lambda: folded([X]),
        TypeError,
        "`params` must be a dict of arrays by path, as `Folded.params`, got list.",
    ),
    (
        lambda: folded({"kernel": X, "scale": X}),
        ValueError,
        "`params` must have the names of `Folded.params`; it lacks ['bias'], and also has ['scale'].",
    ),
    (
        lambda: folded({**FOLDED, "kernel": jnp.ones((2, 3))}),
        ValueError,
        "`params` must have the shapes and dtypes of `Folded.params`, got float32[2, 3] at `kernel`, which has float32[2, 2]; fold the other network itself.",
    ),
    (
        lambda: folded(FOLDED, X[:1], by_shape),
        ValueError,
        "`inputs` must lead to the operations that were folded, got others for float32[1,2]; fold the function again with such inputs.",
    ),
]
