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


class Instead(nn.BatchNorm):
    """A subclass with arithmetic of its own."""

    @nn.compact
    def __call__(self, x):
        for name in ("mean", "var"):
            self.variable("batch_stats", name, jnp.ones, x.shape[-1:])
        return x - jnp.mean(x, 0, keepdims=True)


class InsteadNnx(nnx.BatchNorm):
    def __call__(self, x, use_running_average=None):
        return x - jnp.mean(x, 0, keepdims=True)


class OwnNnx(jaxbn.nnx.BatchNorm):
    def __call__(self, x, use_running_average=None):
        return x - jnp.mean(x, 0, keepdims=True)


MASK = (
    "`decay_mask` must be a pytree of booleans like `params`, or a function of it, got"
)
OF_A_SUBCLASS = "at least one batch norm must be measured, but of those that ran as in training, `.`, each is a subclass whose `__call__` does not call `super().__call__`, or has a mask that leaves all values out."

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
    (lambda: linen([X], decay_mask=3), TypeError, f"{MASK} 3."),
    (
        lambda: linen([X], decay_mask={"scale": True, "bias": 1.0}),
        TypeError,
        f"{MASK} 1.0 at `bias`.",
    ),
    (
        lambda: linen([X], decay_mask=lambda params: params),
        TypeError,
        f"{MASK} an array of shape (3,) at `bias`.",
    ),
    (
        lambda: linen([X], decay_mask={"scale": True}),
        ValueError,
        f"{MASK} one that lacks `bias`.",
    ),
    (
        lambda: linen([X], decay_mask={"params": dict.fromkeys("abcd", True)}),
        ValueError,
        f"{MASK} one that lacks `bias`, `scale`.",
    ),
    (
        lambda: of_nnx(
            [{"image": X}], decay_mask=dict.fromkeys(("bias", "scale", *"abcde"), True)
        ),
        ValueError,
        f"{MASK} one that has, and `params` has not, `a`, `b`, `c` and 2 more.",
    ),
    (lambda: linen([X], Instead()), ValueError, OF_A_SUBCLASS),
    (
        lambda: of_nnx([{"image": X}], InsteadNnx(3, rngs=nnx.Rngs(0))),
        ValueError,
        OF_A_SUBCLASS,
    ),
    (
        lambda: of_nnx([{"image": X}], OwnNnx(3, rngs=nnx.Rngs(0))),
        ValueError,
        OF_A_SUBCLASS,
    ),
]
