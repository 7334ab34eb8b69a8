# SPDX-License-Identifier: Apache-2.0
"""Keras 3 networks. Keras itself is not imported: its layers are asked."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxbn._checks.convert import check_keras, check_keras_path
from jaxbn._convert.layers import Settings
from jaxbn._convert.layouts import Layout, Library
from jaxbn._convert.matching import Names, Source
from jaxbn._convert.transfer import read_from, written_to

KERAS = Library(
    "keras",
    {
        "batch_norm": {
            "scale": "gamma",
            "bias": "beta",
            "mean": "moving_mean",
            "var": "moving_variance",
        },
        "conv": {"kernel": "kernel", "bias": "bias"},
        "conv_transpose": {"kernel": "kernel", "bias": "bias"},
        "dense": {"kernel": "kernel", "bias": "bias"},
        "embed": {"embedding": "embeddings"},
        "norm": {"scale": "gamma", "bias": "beta"},
    },
    {
        "conv": Layout("*IO"),
        "conv_transpose": Layout("*OI", mirrored=True),
        "dense": Layout("*IO"),
    },
)
KINDS = {  # by the names of Keras's classes
    "BatchNormalization": "batch_norm",
    "BaseConvTranspose": "conv_transpose",
    "BaseConv": "conv",
    "BaseDepthwiseConv": "conv",
    "Dense": "dense",
    "Embedding": "embed",
    "LayerNormalization": "norm",
    "GroupNormalization": "norm",
}


def from_keras(model: Any, network: Any, *, names: Names | None = None) -> Any:
    """Gives a Flax model the weights of a Keras network.

    Kernels have Flax's order of axes; of DepthwiseConv `kernel[*s, 0, i * m + k]` is
    `kernel[*s, i, k]`, with m outputs for each input; of ConvTranspose the last two
    axes are exchanged, and mirrored unless `transpose_kernel` is set. `scale, bias,
    mean, var` of batch norm are `gamma, beta, moving_mean, moving_variance`.

    Keras's batch norm is jaxbn's with the same `momentum` and `epsilon`, which in Keras
    are 0.99 and 1e-3 unless given; they are compared. A layer with `debias` takes the
    statistics for settled: Keras leaves its start in them. Keras flattens the channels
    last, as Flax does, in every data format.

    Nothing is changed unless everything fits.

    Args:
        model: as in `from_torch`.
        network: a built `keras.Model`, of Keras 3 on any backend; for a file of
            weights, call its `load_weights` first.
        names: Keras's name of each layer by its path here, such as
            `{"stem/conv": "conv2d"}`; of a layer in another model or layer with that
            one's name before it, `"encoder/conv2d"`; else as in `from_torch`.

    Returns:
        Linen's variables, `params` and `batch_stats`; or `model`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: names, shapes or settings differ, a proposal is in doubt, or two
            weights of the network have one path.

    Example:
        With Keras::

            import keras
            from flax import nnx
            from jaxbn.convert import from_keras

            network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
            model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
            from_keras(model, network)

    References:
        `keras.layers.BatchNormalization` and `keras.layers.DepthwiseConv2D`.
    """
    sources, _ = _sources(network)
    return read_from(KERAS, model, sources, names=names)


def to_keras(
    model: Any,
    network: Any,
    *,
    variables: Mapping[str, Any] | None = None,
    names: Names | None = None,
) -> Any:
    """Gives a Keras network the values of a Flax model.

    The inverse of `from_keras`, bit for bit. Nothing is changed unless everything fits.

    Args:
        model: as in `to_torch`.
        network: a built `keras.Model`; it is changed.
        variables: for Linen, those to convert.
        names: as in `from_keras`.

    Returns:
        `network`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: as in `from_keras`; or `variables` are missing or those of another
            model.

    Example:
        With Keras::

            import keras
            from flax import nnx
            from jaxbn.convert import to_keras

            network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
            model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
            to_keras(model, network)

    References:
        As for `from_keras`.
    """
    sources, places = _sources(network)
    written = written_to(KERAS, model, sources, variables=variables, names=names)
    for name, arrays in written.arrays.items():
        for leaf, value in arrays.items():
            variable = places[name][leaf]
            variable.assign(value.reshape(variable.shape))
    return network


def _sources(network: Any) -> tuple[list[Source], dict[str, dict[str, Any]]]:
    """The layers that own weights, in Keras's order, and those weights."""
    check_keras(network)
    places: dict[str, dict[str, Any]] = {}
    for variable in network.weights:
        layer, _, leaf = variable.path.rpartition("/")
        check_keras_path(variable.path, places.get(layer, {}))
        places.setdefault(layer, {})[leaf] = variable
    layers = {layer.path: layer for layer in network._flatten_layers()}
    sources = []
    for name, own in places.items():
        layer: Any = layers.get(name)
        parents = [kind.__name__ for kind in type(layer).__mro__]
        kind = next((KINDS[k] for k in KINDS if k in parents), None)
        settings = None
        if kind == "batch_norm":
            settings = Settings(layer.epsilon, layer.momentum, unbiased=False)
        arrays = {leaf: np.asarray(v) for leaf, v in own.items()}
        if "BaseDepthwiseConv" in parents:
            *spatial, inputs, each = arrays["kernel"].shape
            arrays["kernel"] = arrays["kernel"].reshape((*spatial, 1, inputs * each))
        sources.append(Source(name, arrays, kind, settings))
    return sources, places
