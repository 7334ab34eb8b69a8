# SPDX-License-Identifier: Apache-2.0
"""PyTorch's networks. PyTorch itself is not imported: its tensors are asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxbn._checks.convert import check_weights
from jaxbn._convert.files import in_order, load_weights, to_numpy
from jaxbn._convert.layers import Settings
from jaxbn._convert.layouts import Flatten, Layout, Library
from jaxbn._convert.matching import Names, Source
from jaxbn._convert.transfer import read_from, written_to

COUNTER = "num_batches_tracked"
TORCH = Library(
    "torch",
    {
        "batch_norm": {
            "scale": "weight",
            "bias": "bias",
            "mean": "running_mean",
            "var": "running_var",
            "count": COUNTER,
        },
        "conv": {"kernel": "weight", "bias": "bias"},
        "conv_transpose": {"kernel": "weight", "bias": "bias"},
        "dense": {"kernel": "weight", "bias": "bias"},
        "embed": {"embedding": "weight"},
        "norm": {"scale": "weight", "bias": "bias"},
    },
    {
        "conv": Layout("OI*"),
        "conv_transpose": Layout("IO*", mirrored=True),
        "dense": Layout("OI*"),
    },
    channels_first=True,
)
KINDS = {  # by the names of PyTorch's classes, the first that a module descends from
    "_BatchNorm": "batch_norm",
    "_ConvTransposeNd": "conv_transpose",
    "_ConvNd": "conv",
    "Linear": "dense",
    "Embedding": "embed",
    "LayerNorm": "norm",
    "GroupNorm": "norm",
    "RMSNorm": "norm",
    "_InstanceNorm": "norm",
}


def from_torch(
    model: Any,
    weights: Any,
    *,
    names: Names | None = None,
    flatten: Flatten | None = None,
) -> Any:
    """Gives a Flax model the weights of a PyTorch network.

    `kernel[*s, i, o] = weight[o, i, *s]` for Conv, grouped and depthwise too, and for
    Linear; `weight[i, o, *s]`, mirrored along `s` unless Flax's `transpose_kernel` is
    set, for ConvTranspose; `scale, bias, mean, var` of BatchNorm1d, 2d, 3d and
    SyncBatchNorm are `weight, bias, running_mean, running_var`. Embedding, LayerNorm,
    GroupNorm, RMSNorm and InstanceNorm are copied. Values are rounded to the dtype of
    the model's variables where that is narrower.

    Settings are not weights. PyTorch's batch norm is jaxbn's with `momentum` 1 minus
    PyTorch's, `epsilon` its `eps` and `unbiased=True`. Give the module instead of its
    `state_dict`, and they are compared; a `state_dict` knows neither. With
    `momentum=None` the `count` is `num_batches_tracked`. A layer with `debias` takes
    the statistics for settled: PyTorch leaves its start in them. PyTorch's
    `ConvTranspose` with padding p is Flax's with padding k - 1 - p.

    Nothing is changed unless everything fits.

    Args:
        model: an `nnx.Module`, which is changed; or for Linen a function of a key that
            returns variables, such as `lambda key: model.init(key, x, train=False)`. It
            is traced and not run.
        weights: a `torch.nn.Module`, its `state_dict`, arrays by the names of one, or
            the path of a file that `load_weights` reads.
        names: PyTorch's name of each layer by its path here, such as
            `{"stem/conv": "features.0"}`, or a function from the one to the other. The
            layers that a mapping leaves out have equal names, but for case and
            separators, or else the names of a proposal from the order and the shapes of
            these layers, which is refused where it is in doubt. A layer that PyTorch
            has under several names counts once, under the first.
        flatten: what PyTorch flattened before a Dense layer, by the path of the layer:
            the shape without the batch, channels last, such as
            `{"head": (7, 7, 64)}`. PyTorch flattens the channels first. None for a
            layer before which nothing was flattened. An error says where it is needed.

    Returns:
        Linen's variables, `params` and `batch_stats`; or `model`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: names, shapes or settings differ, a proposal is in doubt, or the
            shape before a Dense layer is needed.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import jaxbn.linen
        >>> from jaxbn.convert import from_torch
        >>> names = ("weight", "bias", "running_mean", "running_var")
        >>> state_dict = {f"bn1.{name}": np.full(3, 4.0) for name in names}
        >>> norm = jaxbn.linen.BatchNorm(use_running_average=True, epsilon=0.0)
        >>> x = jnp.full((1, 3), 5.0)
        >>> variables = from_torch(lambda key: norm.init(key, x), state_dict)
        >>> norm.apply(variables, x).tolist()  # (5 - 4) / 2 * 4 + 4
        [[6.0, 6.0, 6.0]]

    References:
        The documentation of `torch.nn.BatchNorm2d` and `torch.nn.ConvTranspose2d`, and
        Flax's guide "Convert PyTorch models to Flax".
    """
    _, sources, _ = _sources(weights)
    return read_from(TORCH, model, sources, names=names, flatten=flatten)


def to_torch(
    model: Any,
    weights: Any,
    *,
    variables: Mapping[str, Any] | None = None,
    names: Names | None = None,
    flatten: Flatten | None = None,
) -> dict[str, Any]:
    """Returns the values of a Flax model as a `state_dict` of a PyTorch network.

    The inverse of `from_torch`, bit for bit. What the model does not store, such as
    `num_batches_tracked` of a layer that counts nothing, is taken from `weights`.

    Args:
        model: an `nnx.Module`; or for Linen a function of a key, as in `from_torch`.
        weights: the `torch.nn.Module`, its `state_dict` or a file of one, for names,
            shapes and dtypes; it is not changed.
        variables: for Linen, those to convert.
        names: as in `from_torch`.
        flatten: as in `from_torch`.

    Returns:
        Arrays by PyTorch's names, each a tensor where `weights` has tensors; for
        `load_state_dict`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: as in `from_torch`; `variables` are missing or those of another
            model; or the features of a layer differ in their `count`.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> import jaxbn.nnx
        >>> from jaxbn.convert import to_torch
        >>> names = ("weight", "bias", "running_mean", "running_var")
        >>> like = {f"bn1.{name}": np.zeros(1, np.float32) for name in names}
        >>> norm = jaxbn.nnx.BatchNorm(1, rngs=nnx.Rngs(0))
        >>> {name: value.item() for name, value in to_torch(norm, like).items()}
        {'bn1.weight': 1.0, 'bn1.bias': 0.0, 'bn1.running_mean': 0.0, 'bn1.running_var': 1.0}

    References:
        As for `from_torch`.
    """  # noqa: E501
    given, sources, shared = _sources(weights)
    written = written_to(
        TORCH, model, sources, variables=variables, names=names, flatten=flatten
    )
    new = {
        _join(layer, name): value
        for layer, arrays in written.arrays.items()
        for name, value in arrays.items()
    }
    return {name: _like(value, new[shared[name]]) for name, value in given.items()}


def _sources(
    weights: Any,
) -> tuple[dict[str, Any], list[Source], dict[str, str]]:
    """The arrays by name, the layers, and of each name that of the array it shares."""
    kinds, settings = {}, {}
    if hasattr(weights, "named_modules"):
        for name, module in weights.named_modules():
            parents = [kind.__name__ for kind in type(module).__mro__]
            kinds[name] = next((KINDS[k] for k in KINDS if k in parents), None)
            if kinds[name] == "batch_norm":
                momentum = None if module.momentum is None else 1 - module.momentum
                settings[name] = Settings(module.eps, momentum, unbiased=True)
        weights = weights.state_dict()
    elif isinstance(weights, str | Path):
        weights = load_weights(weights)
    check_weights(weights)
    layers: dict[str, dict[str, Any]] = {}
    # Safetensors stores integers first: counters say nothing about the order.
    for name, value in sorted(weights.items(), key=lambda w: w[0].endswith(COUNTER)):
        layer, _, leaf = name.rpartition(".")
        layers.setdefault(layer, {})[leaf] = value
    first: dict[Any, str] = {}  # a module under several names has the same arrays
    sources, shared = [], {}
    for layer, values in layers.items():
        place = tuple((leaf, _place(value)) for leaf, value in values.items())
        owner = first.setdefault(place, layer)
        shared |= {_join(layer, leaf): _join(owner, leaf) for leaf in values}
        if owner == layer:
            arrays = {leaf: to_numpy(value) for leaf, value in values.items()}
            sources.append(Source(layer, arrays, kinds.get(layer), settings.get(layer)))
    return dict(weights), sources, shared


def _join(layer: str, leaf: str) -> str:
    return f"{layer}.{leaf}" if layer else leaf


def _place(value: Any) -> Any:
    """What is equal for two names of one array."""
    if not hasattr(value, "data_ptr"):
        return id(value)
    return value.data_ptr() or id(value), tuple(value.shape), value.stride()


def _like(old: Any, new: np.ndarray) -> Any:
    """The array as a new tensor where the old one is a tensor."""
    new = in_order(new)
    if not hasattr(old, "new_tensor"):
        return new
    if new.dtype == ml_dtypes.bfloat16:
        new = new.astype(np.float32)
    return old.new_tensor(new if new.ndim else new.item())
