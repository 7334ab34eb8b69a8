# SPDX-License-Identifier: Apache-2.0
"""Arrays of layers between ours and another library's order of axes.

A kernel's layout is a word: `I` for input features, `O` for output features, `*` for
the spatial axes. Flax's is `*IO`. Transposed convolutions come in two kinds, whose
kernels are mirrored along the spatial axes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxbn._checks.convert import (
    check_flatten,
    check_flattened_size,
    check_mapping,
)
from jaxbn._convert.layers import Layer


class Layout(NamedTuple):
    """The order of a kernel's axes, and whether its spatial axes are mirrored."""

    axes: str
    mirrored: bool = False


OURS = Layout("*IO")


class Library(NamedTuple):
    """Another library's names and layouts, by the kind of the layer."""

    name: str
    names: Mapping[str, Mapping[str, str]]
    layouts: Mapping[str, Layout]
    channels_first: bool = False  # hence the order of Flatten before Dense
    debiases: bool = False  # its running statistics know how many updates there were


def ours(layer: Layer) -> Layout:
    """The layout of a layer of Flax's."""
    return Layout("*OI", mirrored=True) if layer.transpose_kernel else OURS


def relayout(kernel: np.ndarray, old: Layout, new: Layout) -> np.ndarray:
    """The kernel with its axes in another order."""
    spatial = kernel.ndim - 2
    kernel = np.moveaxis(kernel, _order(old, spatial), _order(OURS, spatial))
    if old.mirrored != new.mirrored:
        kernel = np.flip(kernel, tuple(range(spatial)))
    return np.moveaxis(kernel, _order(OURS, spatial), _order(new, spatial))


def _order(layout: Layout, spatial: int) -> list[int]:
    """Where the spatial axes, the input and the output features are."""
    start = {}
    position = 0
    for letter in layout.axes:
        start[letter] = position
        position += spatial if letter == "*" else 1
    return [*range(start["*"], start["*"] + spatial), start["I"], start["O"]]


def unflatten(
    array: np.ndarray, shape: Sequence[int] | None, *, to_channels_first: bool
) -> np.ndarray:
    """Reorders features that were flattened: the first axis of a kernel or vector.

    `shape` is that of one example with the channels last.
    """
    if shape is None:
        return array
    rest = array.shape[1:]
    *spatial, channels = shape
    if to_channels_first:
        split = array.reshape((*shape, *rest))
        moved = np.moveaxis(split, len(spatial), 0)
    else:
        split = array.reshape((channels, *spatial, *rest))
        moved = np.moveaxis(split, 0, len(spatial))
    return moved.reshape(array.shape)


Flatten = Mapping[str, Sequence[int] | None]


def check_all_flattened(layers: Sequence[Layer], flatten: Flatten | None) -> Flatten:
    """Asks about each layer whose features may have been channels and positions.

    Those are Dense layers, and norms before one, whose input is not known to be more
    than a vector, and whose number of features is not that of the channels before, or
    which no layer puts out.
    """
    check_mapping("flatten", flatten)
    given = {} if flatten is None else flatten
    sizes = {
        layer.path: _features(layer)
        for layer in layers
        if layer.kind in ("dense", "batch_norm", "norm")
    }
    check_flattened_size(given, sizes)
    put_out = {_outputs(la) for la in layers if la.kind in _WITH_POSITIONS | {"dense"}}
    positions = any(layer.kind in _WITH_POSITIONS for layer in layers)
    channels: int | None = None  # of the last layer with positions
    before: list[Layer] = []  # norms since then that may be of vectors
    for layer in layers:
        if layer.kind in _WITH_POSITIONS:
            channels, before = _outputs(layer), []
        elif layer.path in sizes:
            size = sizes[layer.path]
            other = size != channels if channels is not None else positions
            other = other and (channels is not None or size not in put_out)
            may_be = other and layer.rank in (None, 2)
            if layer.kind == "dense":
                asked = [norm for norm in before if sizes[norm.path] == size]
                if may_be or any(given.get(norm.path) for norm in asked):
                    for one in (*asked, layer):
                        check_flatten(given, one.path, sizes[one.path])
                channels = None
            elif may_be and channels is not None:
                before.append(layer)
            elif channels is not None:
                channels, before = size, []
    return given


_WITH_POSITIONS = {"conv", "conv_transpose"}


def _features(layer: Layer) -> int:
    """The number of input features."""
    if layer.kind == "dense":
        return layer.variables["kernel"].shape[0]
    return int(np.prod(next(iter(layer.variables.values())).shape[-1:]))


def _outputs(layer: Layer) -> int:
    """The number of output features of a convolution or a Dense layer."""
    return layer.variables["kernel"].shape[-2 if layer.transpose_kernel else -1]
