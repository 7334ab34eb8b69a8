# SPDX-License-Identifier: Apache-2.0
"""Haiku's networks: parameters and state, two dicts by the names of modules."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbn._checks.convert import (
    check_haiku_average,
    check_haiku_state,
    check_haiku_trees,
)
from jaxbn._convert.layouts import Layout, Library
from jaxbn._convert.matching import Names, Source
from jaxbn._convert.transfer import Arrays, read_from, seen, written_to
from jaxbn._flax.layer import SETTLED

Tree = Mapping[str, Mapping[str, Any]]

HAIKU = Library(
    "haiku",
    {
        "batch_norm": {
            "scale": "scale",
            "bias": "offset",
            "mean": "mean",
            "var": "var",
            "count": "counter",
        },
        "conv": {"kernel": "w", "bias": "b"},
        "conv_transpose": {"kernel": "w", "bias": "b"},
        "dense": {"kernel": "w", "bias": "b"},
        "embed": {"embedding": "embeddings"},
        "norm": {"scale": "scale", "bias": "offset"},
    },
    {
        "conv": Layout("*IO"),
        "conv_transpose": Layout("*OI"),
        "dense": Layout("*IO"),
    },
    debiases=True,
)
EMAS = {"/~/mean_ema": "mean", "/~/var_ema": "var"}


def from_haiku(
    model: Any, params: Tree, state: Tree, *, names: Names | None = None
) -> Any:
    """Gives a Flax model the weights of a Haiku network.

    `kernel, bias` are `w, b`; `ConvTranspose` exchanges the last two axes, mirrored
    where `transpose_kernel` is set. `scale, bias` of batch norm are `scale, offset`;
    `mean, var` are the `average` of its `mean_ema` and `var_ema`, `count` the
    `counter`; where that is 0, they are 0 and 1.

    Haiku's batch norm is jaxbn's with `debias=True`, its `decay_rate` as `momentum`
    and its `eps` as `epsilon`; Haiku's trees know neither, so that they cannot be
    compared. Without `debias` the averages are taken, and inference is the same.

    Nothing is changed unless everything fits.

    Args:
        model: as in `from_torch`.
        params: arrays by the names of modules, as `init` returns them.
        state: the state, likewise; `{}` for a network without.
        names: Haiku's name of each layer by its path here, such as
            `{"stem/conv": "res_net/~/initial_conv"}`; else as in `from_torch`. Haiku's
            trees forget their order under `jit`, and a proposal is then often refused.

    Returns:
        Linen's variables, `params` and `batch_stats`; or `model`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: names or shapes differ, or a proposal is in doubt.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxbn.linen
        >>> from jaxbn.convert import from_haiku
        >>> params = {"linear": {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}}
        >>> from flax import linen as nn
        >>> dense = nn.Sequential([nn.Dense(3)])
        >>> x = jnp.ones((1, 2))
        >>> variables = from_haiku(lambda key: dense.init(key, x), params, {})
        >>> dense.apply(variables, x).tolist()
        [[2.0, 2.0, 2.0]]

    References:
        `haiku.BatchNorm` and `haiku.ExponentialMovingAverage`.
    """
    return read_from(HAIKU, model, _sources(params, state), names=names)


def to_haiku(
    model: Any,
    params: Tree,
    state: Tree,
    *,
    variables: Mapping[str, Any] | None = None,
    names: Names | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the values of a Flax model as parameters and state of a Haiku network.

    The inverse of `from_haiku`, bit for bit. `hidden` is `average` times
    `1 - momentum**counter`, with the momentum of the layer; statistics that are those
    of `state` are left as they are there. Others of a
    layer without `count` are taken for settled, with a counter of 2**24.

    Args:
        model: as in `to_torch`.
        params: Haiku's parameters, for names, shapes and dtypes; not changed.
        state: Haiku's state, likewise.
        variables: for Linen, those to convert.
        names: as in `from_haiku`.

    Returns:
        `params` and `state` with new values.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: as in `from_haiku`; `variables` are missing or those of another
            model; or the features of a layer differ in their `count`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxbn.convert import to_haiku
        >>> model = nnx.Sequential(nnx.Linear(2, 1, rngs=nnx.Rngs(0)))
        >>> params = {"linear": {"w": jnp.zeros((2, 1)), "b": jnp.ones(1)}}
        >>> new, state = to_haiku(model, params, {})
        >>> new["linear"]["b"].tolist(), state
        ([0.0], {})

    References:
        As for `from_haiku`.
    """
    sources = _sources(params, state)
    written = written_to(HAIKU, model, sources, variables=variables, names=names)
    new_params = {name: dict(values) for name, values in params.items()}
    new_state = {name: dict(values) for name, values in state.items()}
    for source in sources:
        arrays = written.arrays[source.name]
        for name in params.get(source.name, {}):
            old = params[source.name][name]
            new_params[source.name][name] = jnp.asarray(arrays[name].reshape(old.shape))
        for suffix, name in EMAS.items():
            old = state.get(source.name + suffix)
            if old is None or _equal(source.arrays, arrays, name, "counter"):
                continue
            counter = arrays["counter"]
            average = arrays[name].reshape(old["hidden"].shape)
            if source.name not in written.counted:
                counter = np.asarray(SETTLED)
            hidden = average * seen(written.momenta[source.name], counter)
            new = {"counter": counter, "hidden": hidden, "average": average}
            new_state[source.name + suffix] = {
                field: jnp.asarray(new[field], value.dtype)
                for field, value in old.items()
            }
    return new_params, new_state


def _sources(params: Tree, state: Tree) -> list[Source]:
    """The layers: modules with parameters or with averages."""
    check_haiku_trees(params=params, state=state)
    layers: dict[str, Arrays] = {}
    for name, values in params.items():
        arrays = {leaf: np.asarray(value) for leaf, value in values.items()}
        layers.setdefault(name, {}).update(arrays)
    others = []
    for name, values in state.items():
        suffix = next((s for s in EMAS if name.endswith(s)), None)
        if suffix is None:
            others.append(name)
            continue
        check_haiku_average(name, values)
        layer = layers.setdefault(name.removesuffix(suffix), {})
        layer["counter"] = np.asarray(values["counter"])
        average = np.asarray(values["average"])
        if layer["counter"] == 0:  # a variance of 0, which no layer starts with here
            average = np.full_like(average, EMAS[suffix] == "var")
        layer[EMAS[suffix]] = average
    check_haiku_state(others)
    return [
        Source(name, {leaf: _vector(leaf, a) for leaf, a in arrays.items()})
        for name, arrays in layers.items()
    ]


def _vector(leaf: str, array: np.ndarray) -> np.ndarray:
    """The values of a feature axis, which Haiku keeps with axes of size 1."""
    return array if leaf in ("w", "embeddings", "counter") else array.reshape(-1)


def _equal(old: Mapping[str, np.ndarray], new: Arrays, *names: str) -> bool:
    return all(np.array_equal(old[name], new[name]) for name in names)
