# SPDX-License-Identifier: Apache-2.0
"""Equinox's networks: a module and its state. Equinox itself is not imported."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbn._checks.convert import check_equinox, check_equinox_state
from jaxbn._convert.layers import Settings
from jaxbn._convert.layouts import Flatten, Layout, Library
from jaxbn._convert.matching import Names, Source
from jaxbn._convert.transfer import Arrays, Written, read_from, seen, written_to
from jaxbn._flax.layer import SETTLED

EQUINOX = Library(
    "equinox",
    {
        "batch_norm": {
            "scale": "weight",
            "bias": "bias",
            "mean": "mean",
            "var": "var",
            "count": "count",
        },
        "conv": {"kernel": "weight", "bias": "bias"},
        "conv_transpose": {"kernel": "weight", "bias": "bias"},
        "dense": {"kernel": "weight", "bias": "bias"},
        "embed": {"embedding": "weight"},
        "norm": {"scale": "weight", "bias": "bias"},
    },
    {
        "conv": Layout("OI*"),
        "conv_transpose": Layout("OI*"),
        "dense": Layout("OI*"),
    },
    channels_first=True,
    debiases=True,
)
KINDS = {  # by the names of Equinox's classes
    "BatchNorm": "batch_norm",
    "ConvTranspose": "conv_transpose",
    "Conv": "conv",
    "Linear": "dense",
    "Embedding": "embed",
    "LayerNorm": "norm",
    "GroupNorm": "norm",
    "RMSNorm": "norm",
}


def from_equinox(
    model: Any,
    network: Any,
    state: Any = None,
    *,
    names: Names | None = None,
    flatten: Flatten | None = None,
) -> Any:
    """Gives a Flax model the weights of an Equinox network.

    `kernel[*s, i, o] = weight[o, i, *s]` for Conv, ConvTranspose and Linear; `scale,
    bias` of batch norm are `weight, bias`, and `mean, var` what it uses in inference:
    in `mode="batch"` the stored sums divided by `1 - momentum**counter`.

    Equinox's batch norm is jaxbn's with its `momentum`, its `eps` as `epsilon`, and
    in `mode="batch"` `debias=True`; `momentum` and `epsilon` are compared. A network
    that was never trained is trained otherwise here: in `mode="batch"` Equinox leaves
    its initial variance of 1 in the average, and in `mode="ema"` it takes the first
    batch whole, and normalizes by running statistics in training too.

    Nothing is changed unless everything fits.

    Args:
        model: as in `from_torch`.
        network: an `equinox.Module`.
        state: its `equinox.nn.State`, if it has batch norms.
        names: Equinox's name of each layer by its path here, such as
            `{"stem/conv": "layers.0"}`; else as in `from_torch`.
        flatten: as in `from_torch`: Equinox has the channels first.

    Returns:
        Linen's variables, `params` and `batch_stats`; or `model`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: names, shapes or settings differ, a proposal is in doubt, or the
            shape before a Dense layer is needed.

    Example:
        With Equinox::

            import equinox, jax
            from flax import nnx
            from jaxbn.convert import from_equinox

            network = equinox.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
            first, last = (nnx.Linear(*s, rngs=nnx.Rngs(0)) for s in ((2, 4), (4, 3)))
            model = from_equinox(nnx.Sequential(first, nnx.relu, last), network)

    References:
        `equinox.nn.BatchNorm` and `equinox.nn.ConvTranspose`.
    """
    sources = _sources(network, state)
    return read_from(EQUINOX, model, sources, names=names, flatten=flatten)


def to_equinox(
    model: Any,
    network: Any,
    state: Any = None,
    *,
    variables: Mapping[str, Any] | None = None,
    names: Names | None = None,
    flatten: Flatten | None = None,
) -> tuple[Any, Any]:
    """Returns an Equinox network and its state with the values of a Flax model.

    The inverse of `from_equinox`, bit for bit. Statistics that are those of `state`
    are left as they are there. Others of a layer without `count` are
    taken for settled, with a counter of 2**24.

    Args:
        model: as in `to_torch`.
        network: an `equinox.Module`, for structure, shapes and dtypes; not changed.
        state: its `equinox.nn.State`, likewise.
        variables: for Linen, those to convert.
        names: as in `from_equinox`.
        flatten: as in `from_torch`.

    Returns:
        The module and the state with new values.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: as in `from_equinox`; `variables` are missing or those of another
            model; or the features of a layer differ in their `count`.

    Example:
        With Equinox::

            import equinox, jax
            from flax import nnx
            from jaxbn.convert import to_equinox

            network = equinox.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
            first, last = (nnx.Linear(*s, rngs=nnx.Rngs(0)) for s in ((2, 4), (4, 3)))
            network, _ = to_equinox(nnx.Sequential(first, nnx.relu, last), network)

    References:
        As for `from_equinox`.
    """
    sources = _sources(network, state)
    written = written_to(
        EQUINOX, model, sources, variables=variables, names=names, flatten=flatten
    )
    leaves, structure = jax.tree.flatten_with_path(network)
    new = []
    for path, leaf in leaves:
        arrays, name = written.arrays.get(_name(path[:-1]), {}), _name(path[-1:])
        if name in arrays:
            leaf = jnp.asarray(arrays[name].reshape(leaf.shape), leaf.dtype)
        new.append(leaf)
    nodes = dict(_nodes("", network))
    # A copy: Equinox spoils a state that another is made of.
    state = jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(state))
    for source in sources:
        if source.kind == "batch_norm":
            state = _with_statistics(nodes[source.name], state, source, written)
    return jax.tree.unflatten(structure, new), state


def _sources(network: Any, state: Any) -> list[Source]:
    """The modules that own arrays, and batch norms without affine part."""
    sources = []
    for name, node in _nodes("", network):
        arrays = {
            _name(path): np.asarray(leaf)
            for path, leaf in _children(node)
            if isinstance(leaf, jax.Array | np.ndarray)
        }
        parents = [kind.__name__ for kind in type(node).__mro__]
        kind = next((KINDS[k] for k in KINDS if k in parents), None)
        settings = None
        if kind == "batch_norm":
            check_equinox_state(name, state)
            arrays |= _statistics(node, state)
            settings = Settings(node.eps, node.momentum, unbiased=False)
        if "bias" in arrays:  # of a convolution it has axes of size 1
            arrays["bias"] = arrays["bias"].reshape(-1)
        if arrays:
            sources.append(Source(name, arrays, kind, settings))
    check_equinox(network, sources)
    return sources


def _nodes(name: str, node: Any) -> Iterator[tuple[str, Any]]:
    """The modules and containers of a network, by name."""
    yield name, node
    for path, child in _children(node):
        if jax.tree.leaves(child) != [child] or hasattr(child, "batch_state_index"):
            yield from _nodes(f"{name}.{_name(path)}".lstrip("."), child)


def _children(node: Any) -> list[tuple[Any, Any]]:
    def is_child(other: Any) -> bool:
        return other is not node

    return jax.tree.leaves_with_path(node, is_leaf=is_child)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _statistics(norm: Any, state: Any) -> Arrays:
    """The mean and variance of inference, and the number of updates."""
    if norm.mode == "ema":
        mean, var = map(np.asarray, state.get(norm.ema_state_index))
        if state.get(norm.ema_first_time_index):  # nothing is stored yet
            start = {"mean": np.zeros_like(mean), "var": np.ones_like(var)}
            return start | {"count": np.asarray(0)}
        return {"mean": mean, "var": var, "count": np.asarray(SETTLED)}
    count = state.get(norm.batch_counter)
    weight = jnp.where(count == 0, 1, 1 - norm.momentum**count)  # as Equinox does
    mean, var = (np.asarray(a / weight) for a in state.get(norm.batch_state_index))
    return {"mean": mean, "var": var, "count": np.asarray(count)}


def _with_statistics(norm: Any, state: Any, source: Source, written: Written) -> Any:
    """The state with the statistics of a layer, unless they are those it has."""
    new = written.arrays[source.name]
    if all(np.array_equal(source.arrays[n], new[n]) for n in ("mean", "var", "count")):
        return state
    if norm.mode == "ema":
        state = state.set(norm.ema_first_time_index, jnp.asarray(False))
        return state.set(norm.ema_state_index, tuple(map(jnp.asarray, _both(new))))
    count = new["count"] if source.name in written.counted else np.asarray(SETTLED)
    old = state.get(norm.batch_counter)
    state = state.set(norm.batch_counter, 0 * old + int(count))  # as weakly typed
    weight = seen(norm.momentum, count) if count else 1
    sums = tuple(jnp.asarray(a * weight, a.dtype) for a in _both(new))
    return state.set(norm.batch_state_index, sums)


def _both(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    return arrays["mean"], arrays["var"]
