# SPDX-License-Identifier: Apache-2.0
"""A deep net in Linen, in NNX, and in NumPy float64, with the same variables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
from jaxbn import population
from jaxbn.convert import from_linen, to_linen

WIDTHS = (6, 5, 4)


class LinenNet(nn.Module):
    """Dense, norm, ReLU, three times."""

    norm: type = jaxbn.linen.BatchNorm
    frozen: int | None = None
    skipped: int | None = None

    @nn.compact
    def __call__(self, x, mask=None):
        for k, width in enumerate(WIDTHS):
            x = nn.Dense(width, name=f"dense{k}")(x)
            norm = self.norm(use_running_average=k == self.frozen, name=f"norm{k}")
            if k != self.skipped or self.is_initializing():
                x = norm(x, mask=mask)
            x = nn.relu(x)
        return x


class NnxNet(nnx.Module):
    """The same."""

    def __init__(self, frozen=None, skipped=None, norm=jaxbn.nnx.BatchNorm):
        rngs = nnx.Rngs(0)
        sizes = zip((3, *WIDTHS), WIDTHS, strict=False)
        for k, (size, width) in enumerate(sizes):
            setattr(self, f"dense{k}", nnx.Linear(size, width, rngs=rngs))
            flag = {"use_running_average": k == frozen}
            setattr(self, f"norm{k}", norm(width, **flag, rngs=rngs))
        self.skipped = skipped

    def __call__(self, x, mask=None):
        for k in range(len(WIDTHS)):
            x = getattr(self, f"dense{k}")(x)
            if k != self.skipped:
                x = getattr(self, f"norm{k}")(x, mask=mask)
            x = nnx.relu(x)
        return x


@functools.cache
def _started():
    variables = jax.jit(LinenNet().init)(jax.random.key(0), jnp.ones((4, 3)))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    return jax.tree.map(
        lambda a: a + 0.5 * jax.random.uniform(next(keys), a.shape), variables
    )


def start():
    """Variables away from their initial values, in dictionaries of the caller's own."""
    return jax.tree.map(lambda a: a, _started())


def of_linen(variables, batches, *, norm="BatchNorm", frozen=None, skipped=None, **how):
    """Returns the new variables and the report; a batch is x and mask."""
    net = LinenNet(getattr(jaxbn.linen, norm), frozen, skipped)

    def apply(variables, batch):
        return net.apply(variables, *batch, mutable=["batch_stats"])

    return population.estimate_linen(apply, variables, batches, **how)


def of_nnx(variables, batches, *, norm="BatchNorm", frozen=None, skipped=None, **how):
    """The same, by way of the NNX net."""
    model = NnxNet(frozen, skipped, getattr(jaxbn.nnx, norm))
    from_linen(model, variables)
    report = population.estimate_nnx(
        lambda model, batch: model(*batch), model, batches, **how
    )
    return to_linen(model), report


ESTIMATES = {"linen": of_linen, "nnx": of_nnx}


def inputs(variables, x):
    """What enters each norm, in float64, each by the statistics of this batch."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    x, entered = np.asarray(x, np.float64), {}
    for k in range(len(WIDTHS)):
        dense, norm = params[f"dense{k}"], params[f"norm{k}"]
        x = entered[f"norm{k}"] = x @ dense["kernel"] + dense["bias"]
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * norm["scale"] + norm["bias"]
        x = np.maximum(x, 0)
    return entered


def moments(entered):
    """Of all rows together."""
    return {
        path: {"mean": rows.mean(0), "var": rows.var(0)}
        for path, rows in entered.items()
    }


def expected(variables, batches, *, layerwise):
    """The statistics of all rows that count, of all batches together.

    Layer after layer, each normalizes by the population: as if it were one batch.
    """
    valid = [x if mask is None else x[np.asarray(mask)] for x, mask in batches]
    if layerwise:
        return moments(inputs(variables, np.concatenate(valid)))
    each = [inputs(variables, x) for x in valid]
    return moments({p: np.concatenate([one[p] for one in each]) for p in each[0]})


def make_batches(rng):
    """Of several sizes, the last padded with NaN, and each of another mean."""
    made = [
        (rng.normal(k, 2, (size, 3)).astype(np.float32), None)
        for k, size in enumerate((16, 16, 7, 16))
    ]
    padded = np.full((16, 3), np.nan, np.float32)
    padded[:5] = rng.normal(9, 1, (5, 3))
    return [*made, (padded, np.arange(16) < 5)]
