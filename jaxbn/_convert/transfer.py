# SPDX-License-Identifier: Apache-2.0
"""The values of a whole network, into a Flax model and out of it.

Everything is matched, checked and computed before anything is written.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxbn._checks.convert import (
    check_different_sources,
    check_fits,
    check_has_values,
    check_one_count,
    check_same_arrays,
    check_same_settings,
)
from jaxbn._convert.layers import Layer, read_model
from jaxbn._convert.layouts import (
    Flatten,
    Library,
    check_all_flattened,
    ours,
    relayout,
    unflatten,
)
from jaxbn._convert.matching import Names, Source, match
from jaxbn._flax.layer import SETTLED

Arrays = dict[str, np.ndarray]


class Written(NamedTuple):
    """A model's values by the names of the sources."""

    arrays: dict[str, Arrays]
    counted: set[str]  # the sources of batch norms that count their updates
    momenta: dict[str, float | None]  # of batch norms


def read_from(
    library: Library,
    model: object,
    sources: Sequence[Source],
    *,
    names: Names | None,
    flatten: Flatten | None = None,
) -> Any:
    """Gives the model the values of the sources; returns what `Model.write` returns."""
    layers, write = read_model(model)
    pairs = match(layers, sources, lambda s, la: _fits(library, s, la), names)
    orders = _check(library, pairs, layers, sources, flatten)
    values = {
        # A copy: JAX would share memory that the other library may train in.
        (layer.path, name): jnp.array(value, layer.variables[name].dtype)
        for layer, source in pairs
        for name, value in _decode(
            library, source, layer, orders.get(layer.path)
        ).items()
    }
    return write(values)


def written_to(
    library: Library,
    model: object,
    sources: Sequence[Source],
    *,
    variables: Mapping[str, Any] | None,
    names: Names | None,
    flatten: Flatten | None = None,
) -> Written:
    """Returns the model's values; what it does not store is that of the sources."""
    layers, _ = read_model(model, variables)
    for layer in layers:
        check_has_values(layer.path, layer.variables)
    pairs = match(layers, sources, lambda s, la: _fits(library, s, la), names)
    check_different_sources([(la.path, source.name) for la, source in pairs])
    orders = _check(library, pairs, layers, sources, flatten)
    return Written(
        {
            source.name: _encode(library, source, layer, orders.get(layer.path))
            for layer, source in pairs
        },
        {source.name for layer, source in pairs if "count" in layer.variables},
        {source.name: la.settings.momentum for la, source in pairs if la.settings},
    )


def seen(momentum: float | None, count: np.ndarray) -> Any:
    """The weight of all updates together, `1 - momentum**count`, in float64."""
    keep = 0.0 if momentum is None else momentum
    return 1 - np.power(keep, np.asarray(count, np.float64))


def _check(
    library: Library,
    pairs: Sequence[tuple[Layer, Source]],
    layers: Sequence[Layer],
    sources: Sequence[Source],
    flatten: Flatten | None,
) -> Flatten:
    missing, unknown = [], []
    for layer, source in pairs:
        expected = set(_expected(library, layer).values())
        optional = {library.names["batch_norm"].get("count")} - {None}
        if layer.kind != "batch_norm":
            optional = set()
        of = f"{source.name}." if source.name else ""
        missing += [f"{of}{name}" for name in expected - set(source.arrays)]
        unknown += [f"{of}{n}" for n in set(source.arrays) - expected - optional]
    check_same_arrays(library.name, sorted(missing), sorted(unknown))
    for layer, source in pairs:
        if layer.settings is not None and source.settings is not None:
            for field, right in source.settings._asdict().items():
                value = getattr(layer.settings, field)
                check_same_settings(layer.path, field, value, right, source.name)
        for name, value in _decode(library, source, layer, None).items():
            check_fits(layer.path, name, layer.variables[name], source.name, value)
    if not library.channels_first:
        return {}
    order = [source.name for source in sources]
    # An NNX model may have lost the order of its layers; so have weights in order of
    # their names, as safetensors stores them.
    by_name = sorted(order, key="{}.".format)
    if all(layer.rank is None for layer in layers) and order != by_name:
        layers = [la for la, _ in sorted(pairs, key=lambda p: order.index(p[1].name))]
    return check_all_flattened(layers, flatten)


def _expected(library: Library, layer: Layer) -> dict[str, str]:
    """The source's names of a layer's variables."""
    names = library.names[layer.kind]
    expected = {name: names[name] for name in layer.variables if name != "count"}
    if "count" in layer.variables and not _settled(library, layer):
        expected["count"] = names.get("count", "count")
    return expected


def _settled(library: Library, layer: Layer) -> bool:
    """Whether statistics are updated as those of a layer that no longer debiases.

    So are those of a library that does not: its start stays in them.
    """
    averages = layer.settings is not None and layer.settings.momentum is None
    return not averages and not library.debiases


def _fits(library: Library, source: Source, layer: Layer) -> bool:
    expected = _expected(library, layer)
    optional = {library.names["batch_norm"].get("count")}
    if not set(expected.values()) <= set(source.arrays):
        return False
    if set(source.arrays) - set(expected.values()) - optional:
        return False
    if source.kind not in (None, layer.kind):
        return False
    return all(
        name == "count" or np.shape(value) == layer.variables[name].shape
        for name, value in _decode(library, source, layer, None).items()
    )


def _decode(
    library: Library, source: Source, layer: Layer, shape: Sequence[int] | None
) -> Arrays:
    """A layer's variables from the source's arrays."""
    values = {}
    for name, theirs in _expected(library, layer).items():
        value = source.arrays[theirs]
        if name == "kernel" and value.ndim >= 2:
            value = relayout(value, library.layouts[layer.kind], ours(layer))
        if name != "count" and (name == "kernel" or layer.kind != "dense"):
            value = unflatten(value, shape, to_channels_first=False)
        if name == "count":
            value = np.full(layer.variables["count"].shape, value)
        values[name] = value
    if "count" in layer.variables and "count" not in values:
        values["count"] = np.full(layer.variables["count"].shape, SETTLED)
    return values


def _encode(
    library: Library, source: Source, layer: Layer, shape: Sequence[int] | None
) -> Arrays:
    """The source's arrays, with the values of a layer's variables."""
    arrays = dict(source.arrays)
    for name, theirs in _expected(library, layer).items():
        value = np.asarray(layer.variables[name])
        if name != "count" and (name == "kernel" or layer.kind != "dense"):
            value = unflatten(value, shape, to_channels_first=True)
        if name == "kernel":
            value = relayout(value, ours(layer), library.layouts[layer.kind])
        if name == "count":
            check_one_count(layer.path, value.min(), value.max())
            value = value.max()
        arrays[theirs] = np.asarray(value, source.arrays[theirs].dtype)
    return arrays
