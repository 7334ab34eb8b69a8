# SPDX-License-Identifier: Apache-2.0
"""The layers of a Flax model: their kinds, variables and settings.

In the order of use for Linen, whose `init` is traced, and in the order of definition
for NNX. Variables that belong to no layer of a known kind are refused, so that whatever
is converted is converted completely.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.core import meta, unfreeze

import jaxbn._flax.linen
import jaxbn._flax.nnx
from jaxbn._checks.convert import (
    check_known_kinds,
    check_model,
    check_variables,
    check_watched,
)
from jaxbn._checks.models import check_same_variables

KINDS: dict[str, tuple[type, ...]] = {
    "batch_norm": (
        nn.BatchNorm,
        nnx.BatchNorm,
        jaxbn._flax.linen.BatchNorm,
        jaxbn._flax.nnx.BatchNorm,
    ),
    "conv_transpose": (nn.ConvTranspose, nnx.ConvTranspose),
    "conv": (nn.Conv, nnx.Conv),
    "dense": (nn.Dense, nnx.Linear),
    "embed": (nn.Embed, nnx.Embed),
    "norm": (
        nn.LayerNorm,
        nn.GroupNorm,
        nn.RMSNorm,
        nn.InstanceNorm,
        nnx.LayerNorm,
        nnx.GroupNorm,
        nnx.RMSNorm,
        nnx.InstanceNorm,
    ),
}
NAMES = {"scale", "bias", "mean", "var", "count", "kernel", "embedding"}
COLLECTIONS = ("params", "batch_stats")


class Settings(NamedTuple):
    """What a batch norm's arrays do not tell, in Flax's terms."""

    epsilon: float
    momentum: float | None
    unbiased: bool


class Layer(NamedTuple):
    """A module that has variables of its own, by Flax's names for them."""

    path: str
    kind: str
    variables: Mapping[str, Any]  # arrays, or their shapes and dtypes
    settings: Settings | None = None  # of a batch norm
    transpose_kernel: bool = False  # of a transposed convolution
    rank: int | None = None  # of the input, where it is known

    @property
    def signature(self) -> tuple[Any, ...]:
        """What can be known of a layer without its name."""
        shapes = sorted((name, jnp.shape(v)) for name, v in self.variables.items())
        return self.kind, *shapes


class Model(NamedTuple):
    """The layers of a model, and a function that gives them other values."""

    layers: list[Layer]
    write: Callable[[Mapping[tuple[str, str], jax.Array]], Any]


def read_model(model: object, variables: Mapping[str, Any] | None = None) -> Model:
    """Returns the layers of an NNX model, or of Linen's `init` as a function of a key.

    With `variables` those of Linen have values.
    """
    if isinstance(model, nnx.Module):
        check_variables(variables)
        return _read_nnx(model)
    check_model(model)
    init: Any = model
    return _read_linen(init, variables)


def _layer(path: str, module: object, variables: Mapping[str, Any]) -> Layer:
    kind = next(
        (kind for kind, types in KINDS.items() if isinstance(module, types)), "other"
    )
    if not variables.keys() <= NAMES:
        kind = "other"
    settings = None
    if kind == "batch_norm":
        fields: Any = module
        unbiased = getattr(fields, "unbiased", False)
        settings = Settings(fields.epsilon, fields.momentum, unbiased)
    return Layer(
        path,
        kind,
        variables,
        settings,
        transpose_kernel=getattr(module, "transpose_kernel", False),
    )


def _read_nnx(model: nnx.Module) -> Model:
    found: dict[tuple[str, str], nnx.Variable[Any]] = {}
    layers = []
    for path, module in _modules(model, "", set()):
        own = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, nnx.Param | nnx.BatchStat)
        }
        if own:
            layers.append(
                _layer(path, module, {k: v.get_value() for k, v in own.items()})
            )
            found |= {(path, name): value for name, value in own.items()}
    check_known_kinds([layer.path for layer in layers if layer.kind == "other"])

    def write(values: Mapping[tuple[str, str], jax.Array]) -> nnx.Module:
        for key, value in values.items():
            old = found[key].get_value()
            if isinstance(old, jax.Array) and old.committed:  # to devices, a sharding
                value = jax.device_put(value, old.sharding)
            found[key].set_value(value)
        return model

    return Model(layers, write)


def _modules(node: object, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """The modules below a node in the order of definition, each shared one once."""
    if id(node) in seen:
        return
    children: Mapping[Any, Any] = {}
    if isinstance(node, nnx.Module):
        seen.add(id(node))
        yield path, node
        children = vars(node)
    elif isinstance(node, Mapping):
        children = node
    elif isinstance(node, list | tuple):
        children = dict(enumerate(node))
    for name, child in children.items():
        yield from _modules(child, f"{path}/{name}" if path else str(name), seen)


def _read_linen(
    init: Callable[[jax.Array], Any], variables: Mapping[str, Any] | None
) -> Model:
    used: dict[str, tuple[nn.Module, int | None]] = {}

    def note(
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        rank = getattr(args[0], "ndim", None) if args else None
        if context.module.scope is not None:  # else it is not bound: no variables
            used.setdefault("/".join(context.module.path), (context.module, rank))
        return call(*args, **kwargs)

    def traced(key: jax.Array) -> Any:
        """A new function: JAX would not trace one again that it knows."""
        return unfreeze(init(key))

    with nn.intercept_methods(note):
        made = jax.eval_shape(traced, jax.random.key(0))
    check_watched(used)
    like = {name: made.get(name, {}) for name in COLLECTIONS}
    unboxed = meta.unbox(like)
    values = unboxed
    if variables is not None:
        given = meta.unbox({name: variables.get(name, {}) for name in COLLECTIONS})
        values = unfreeze(given)
        check_same_variables(_by_path(values), _by_path(unboxed))
    keys, own = [], {}
    for path, leaf in jax.tree.leaves_with_path(values):
        _, *modules, name = (key.key for key in path)
        layer = "/".join(modules)
        keys.append((layer, name))
        own.setdefault(layer, {})[name] = leaf
    layers = [
        _layer(path, module, own[path])._replace(rank=rank)
        for path, (module, rank) in used.items()
        if path in own
    ]
    unknown = [layer.path for layer in layers if layer.kind == "other"]
    check_known_kinds([*unknown, *(own.keys() - used.keys())])

    def write(values: Mapping[tuple[str, str], jax.Array]) -> dict[str, Any]:
        return jax.tree.unflatten(jax.tree.structure(like), [values[k] for k in keys])

    return Model(layers, write)


def _by_path(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves by names such as `params/norm/scale`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(variables)
    }
