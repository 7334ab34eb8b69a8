# SPDX-License-Identifier: Apache-2.0
"""The errors of population statistics: a call that raises each, its full text."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
from jaxbn import population

X = jnp.ones((8, 3))
STATS = {"mean": X[0], "var": X[0]}
NORM = jaxbn.linen.BatchNorm(use_running_average=False)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="dense")(x)
        return jaxbn.linen.BatchNorm(use_running_average=False, name="norm")(x)


def variables_of(net):
    return net.init(jax.random.key(0), X)


def linen(batches, net=NORM, variables=None, apply=None, **how):
    def usual(variables, x):
        return net.apply(variables, x, mutable=["batch_stats"])

    variables = variables_of(net) if variables is None else variables
    return population.estimate_linen(apply or usual, variables, batches, **how)


def of_nnx(batches, **fields):
    norm = jaxbn.nnx.BatchNorm(3, **fields, rngs=nnx.Rngs(0))
    return population.estimate_nnx(lambda m, x: m(x), norm, batches)


ERRORS = [
    (
        lambda: linen(X.shape[0]),
        TypeError,
        "`batches` must be an iterable of batches, got int.",
    ),
    (
        lambda: linen([]),
        ValueError,
        "`batches` must hold at least one batch, got none; an iterator that was used before is empty.",
    ),
    (
        lambda: linen(iter([X]), layerwise=True),
        ValueError,
        "`batches` must be iterable more than once with `layerwise=True`, got list_iterator, which ends after one pass; give a list, or a class whose `__iter__` starts again.",
    ),
    (
        lambda: linen([X], nn.Dense(3)),
        ValueError,
        "`variables` must have at least one batch norm, a place with `mean` and `var` of one shape, got none: there is nothing to estimate.",
    ),
    (
        lambda: population.estimate_nnx(
            lambda m, x: m(x), nnx.Linear(3, 4, rngs=nnx.Rngs(0)), [X]
        ),
        ValueError,
        "`model` must have at least one batch norm, a place with `mean` and `var` of one shape, got none: there is nothing to estimate.",
    ),
    (
        lambda: of_nnx([X], use_running_average=True),
        ValueError,
        "the model must be run as in training (`use_running_average=False`, or `update_stats=True`): none of its batch norms, `.`, had anything to add to its statistics.",
    ),
    (
        lambda: linen([X], apply=lambda variables, x: x),
        TypeError,
        '`apply` must return the output and the updates, as `model.apply(..., mutable=["batch_stats"])` does, got no tuple.',
    ),
    (
        lambda: linen([X], Net(), variables_of(NORM)),
        ValueError,
        '`variables` and the batches must fit the model of `apply`, which raised ScopeParamNotFoundError: Could not find parameter named "kernel" in scope "/dense". (https://flax.readthedocs.io/en/latest/api_reference/flax.errors.html#flax.errors.ScopeParamNotFoundError)',
    ),
    (
        lambda: linen(
            [X],
            Net(),
            {
                **variables_of(Net()),
                "batch_stats": {"other": STATS},
            },
        ),
        ValueError,
        "`variables` must have all statistics of the model, but `batch_stats` lacks `norm/mean`, `norm/var`; do they belong to another model?",
    ),
    (
        lambda: linen(
            [X],
            variables={"batch_stats": {"a": {"b": STATS}, "a/b": STATS}},
        ),
        ValueError,
        "`variables` must have layers of different paths, got several at `a/b`, of which one has a name with a `/`; rename it.",
    ),
    (
        lambda: of_nnx([X, X[:, :2]], use_running_average=False),
        ValueError,
        "`scale` must have shape (2,), the size of the feature axes (1,) of `x`, got (3,) for `x` of shape (8, 2).",
    ),
    (
        lambda: linen([X], nn.BatchNorm(use_running_average=False)),
        ValueError,
        "the model must have batch norms of `jaxbn.linen`, got `.`: Flax's own batch norm, which has no part in the estimate; import `BatchNorm` from `jaxbn.linen`, which has the same variables.",
    ),
    (
        lambda: population.estimate_nnx(
            lambda m, x: m(x), nnx.BatchNorm(3, rngs=nnx.Rngs(0)), [X]
        ),
        ValueError,
        "the model must have batch norms of `jaxbn.nnx`, got `.`: Flax's own batch norm, which has no part in the estimate; import `BatchNorm` from `jaxbn.nnx`, which has the same variables.",
    ),
    (
        lambda: linen([X], prior_count=-1.0),
        ValueError,
        "`prior_count` must be finite and at least 0, got -1.0; 0 uses the batches alone.",
    ),
    (
        lambda: linen([X], prior_count="3"),
        TypeError,
        "`prior_count` must be a number, got '3'.",
    ),
]
