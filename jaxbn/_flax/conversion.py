# SPDX-License-Identifier: Apache-2.0
"""Variables of Linen models as those of NNX models, and back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxbn._checks.models import check_same_variables
from jaxbn._flax.nnx import FrozenParam

COLLECTIONS = {
    "params": nnx.Any(nnx.Param, FrozenParam),
    "batch_stats": nnx.All(nnx.BatchStat, nnx.Not(FrozenParam)),
}


def to_linen(module: nnx.Module) -> dict[str, Any]:
    """Returns the parameters and statistics of an NNX module as Linen's variables.

    `variables[collection][path] = module.path`, without arithmetic: names, shapes and
    dtypes stay. The Linen model must use the names of the NNX model's attributes.

    Args:
        module: a norm, or a model that holds some.

    Returns:
        A dict of `params` and `batch_stats`, as `apply` takes it.

    Raises:
        TypeError: `module` is not an `nnx.Module`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import jaxbn.convert, jaxbn.linen, jaxbn.nnx
        >>> norm = jaxbn.nnx.BatchNorm(1, rngs=nnx.Rngs(0))
        >>> variables = jaxbn.convert.to_linen(norm)
        >>> sorted(variables["params"]), sorted(variables["batch_stats"])
        (['bias', 'scale'], ['mean', 'var'])
        >>> linen = jaxbn.linen.BatchNorm(use_running_average=True)
        >>> linen.apply(variables, jnp.ones((2, 1))).shape
        (2, 1)

    References:
        The variables of `flax.linen.BatchNorm` and `flax.nnx.BatchNorm`.
    """
    _check_module(module)
    return {
        collection: nnx.to_pure_dict(nnx.state(module, kind))
        for collection, kind in COLLECTIONS.items()
    }


def from_linen(module: nnx.Module, variables: Mapping[str, Any]) -> None:
    """Sets the parameters and statistics of an NNX module to Linen's variables.

    `module.path = variables[collection][path]`; the inverse of `to_linen`. Nothing is
    set where anything does not fit.

    Args:
        module: a norm, or a model that holds some; it is changed.
        variables: a mapping with `params` and `batch_stats`.

    Returns:
        Nothing.

    Raises:
        TypeError: `module` is not an `nnx.Module`.
        ValueError: names or shapes differ.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import jaxbn.convert, jaxbn.linen, jaxbn.nnx
        >>> linen = jaxbn.linen.BatchNorm(use_running_average=False, momentum=0.5)
        >>> x = jnp.array([[1.0], [5.0]])
        >>> variables = linen.init(jax.random.key(0), x)
        >>> _, updates = linen.apply(variables, x, mutable=["batch_stats"])
        >>> norm = jaxbn.nnx.BatchNorm(1, rngs=nnx.Rngs(0))
        >>> jaxbn.convert.from_linen(norm, {**variables, **updates})
        >>> norm.mean[...].item()
        1.5

    References:
        The variables of `flax.linen.BatchNorm` and `flax.nnx.BatchNorm`.
    """
    given = {name: variables.get(name, {}) for name in COLLECTIONS}
    check_same_variables(_by_path(given), _by_path(to_linen(module)))
    for collection, kind in COLLECTIONS.items():
        state = nnx.state(module, kind)
        values = jax.tree.map(jnp.asarray, variables.get(collection, {}))
        nnx.replace_by_pure_dict(state, values)
        nnx.update(module, state)


def _check_module(module: object) -> None:
    if not isinstance(module, nnx.Module):
        raise TypeError(f"`module` must be an `nnx.Module`, got {type(module)!r}.")


def _by_path(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves by names such as `params/norm/scale`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(variables)
    }
