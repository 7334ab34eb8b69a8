# SPDX-License-Identifier: Apache-2.0
"""The errors of a diagnosis: a call that raises each, its full text."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx

X = jnp.ones((8, 3))


def linen(batches, net=None, **how):
    net = net or jaxbn.linen.BatchNorm(use_running_average=False)
    variables = net.init(jax.random.key(0), X)

    def apply(variables, x):
        return net.apply(variables, x, mutable=["batch_stats"])

    return jaxbn.linen.diagnose(apply, variables, batches, **how)


def of_nnx(batches, model=None, **how):
    model = model or jaxbn.nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    how.setdefault("forward", lambda model, batch: model(batch["image"]))
    return jaxbn.nnx.diagnose(model, batches, **how)


ERRORS = [
    (
        lambda: linen([X], nn.Dense(3)),
        ValueError,
        "`variables` must have at least one batch norm, a place with `mean` and `var` of one shape, got none: there is nothing to diagnose.",
    ),
    (
        lambda: of_nnx([X], nnx.Linear(3, 4, rngs=nnx.Rngs(0))),
        ValueError,
        "`model` must have at least one batch norm, a place with `mean` and `var` of one shape, got none: there is nothing to diagnose.",
    ),
    (
        lambda: linen([]),
        ValueError,
        "`batches` must hold at least one batch, got none; an iterator that was used before is empty.",
    ),
    (
        lambda: linen([X, X[:0]]),
        ValueError,
        "`batches` must have at least one example each, got batch 1 of shape (0, 3); leave empty batches out.",
    ),
    (
        lambda: of_nnx([{"image": X[:0]}]),
        ValueError,
        "`batches` must have at least one example each, got batch 0 with `image` of shape (0, 3); leave empty batches out.",
    ),
    (
        lambda: linen([X, X.at[2, 1].set(jnp.nan)]),
        ValueError,
        "`batches` must be finite where they count, got NaN or infinity in batch 1; mask padding, or repair the data.",
    ),
    (
        lambda: of_nnx([{"image": X.at[0].set(jnp.inf)}]),
        ValueError,
        "`batches` must be finite where they count, got NaN or infinity in batch 0, `image`; mask padding, or repair the data.",
    ),
    (
        lambda: linen([X[:1], X[:1]]),
        ValueError,
        "`batches` must give the norms at least two values per feature, got one example in each batch for `.`; use the batch size of training.",
    ),
    (
        lambda: linen([X], jaxbn.linen.BatchNorm(use_running_average=True)),
        ValueError,
        "the model must be run as in training (`use_running_average=False`, or `update_stats=True`): none of its batch norms, `.`, had anything to add to its statistics.",
    ),
    (
        lambda: linen([X], steps=-1),
        ValueError,
        "`steps` must be at least 0, got -1.",
    ),
    (
        lambda: linen([X], steps=1.5),
        TypeError,
        "`steps` must be an int or None, got 1.5.",
    ),
]
