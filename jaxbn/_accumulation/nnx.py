# SPDX-License-Identifier: Apache-2.0
"""Micro-batches of NNX models: records are variables of the norms."""

import jax
from flax import nnx

from jaxbn._checks.accumulation import check_accumulates, check_idle
from jaxbn._core.types import RunningStats
from jaxbn._flax.nnx import BatchNorm
from jaxbn._flax.records import (
    ACCUMULATES,
    accumulation,
    committed,
    names_of_accumulation,
)
from jaxbn._surgery.nnx import norms_of_jaxbn


def begin_accumulation(model: nnx.Module) -> None:
    r"""Lets the norms of a model accumulate the moments of micro-batches.

    $$N = \sum_k n_k, \quad \mu = \frac1N \sum_k n_k \mu_k, \quad
      v = \frac1N \sum_k n_k \left(v_k + (\mu_k - \mu)^2\right)$$

    As `jaxbn.linen.begin_accumulation`: until `commit`, training normalizes each
    micro-batch by its own moments, and leaves `mean` and `var` alone; `commit` moves
    them once, by the merged moments. The result is that of `virtual_batch_size` on the
    whole batch, not that of batch norm over it.

    Args:
        model: with norms of `jaxbn.nnx`; each gets five or six variables of the
            shape of its `mean`, so that what is compiled for the model is compiled
            again.

    Returns:
        Nothing; the model is changed.

    Raises:
        TypeError: `model` is not an `nnx.Module`.
        ValueError: it has no norms of `jaxbn.nnx`, has one of Flax or in a Linen module
            (`nnx.bridge.ToNNX`), or accumulates already. Nothing is changed then.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxbn.nnx import BatchNorm, begin_accumulation, commit
        >>> norm = BatchNorm(1, momentum=0.5, rngs=nnx.Rngs(0))
        >>> begin_accumulation(norm)
        >>> for x in jnp.array([[[1.0], [3.0]], [[5.0], [7.0]]]):
        ...     y = norm(x)
        >>> norm.mean[...].item()
        0.0
        >>> commit(norm)  # the four values have mean 4 and variance 5
        >>> norm.mean[...].item(), norm.var[...].item()
        (2.0, 3.0)

    References:
        As for `jaxbn.linen.begin_accumulation`.
    """
    norms = norms_of_jaxbn(model)
    check_idle([path for path, norm in norms.items() if _accumulates(norm)])
    for norm in norms.values():
        for name, value in accumulation(_values(norm, RunningStats._fields)).items():
            setattr(norm, name, nnx.BatchStat(value))


def commit(model: nnx.Module) -> None:
    """Moves the running statistics once, by the micro-batches that were accumulated.

    As `jaxbn.linen.commit`; the model then has the variables that it had before. Norms
    that are frozen by now keep their statistics, whatever they saw before.

    Args:
        model: after `begin_accumulation` and the micro-batches; it is changed.

    Returns:
        Nothing.

    Raises:
        TypeError: `model` is not an `nnx.Module`.
        ValueError: it does not accumulate, or has a norm of Flax or in a Linen module.

    Example:
        See `begin_accumulation`.

    References:
        As for `jaxbn.linen.begin_accumulation`.
    """
    norms = [norm for norm in norms_of_jaxbn(model).values() if _accumulates(norm)]
    check_accumulates(norms, name="model")
    kept = names_of_accumulation()
    for norm in norms:
        if not norm.frozen:
            new = committed(_values(norm, RunningStats._fields + kept))
            for name, value in new.items():
                getattr(norm, name).set_value(value)
        for name in filter(norm.__dict__.__contains__, kept):
            delattr(norm, name)


def _accumulates(norm: BatchNorm) -> bool:
    return hasattr(norm, ACCUMULATES)


def _values(norm: BatchNorm, names: tuple[str, ...]) -> dict[str, jax.Array]:
    """The values of a norm's variables by name, of those alone that it has."""
    return {name: getattr(norm, name)[...] for name in names if hasattr(norm, name)}
