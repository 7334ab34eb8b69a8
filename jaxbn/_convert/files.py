# SPDX-License-Identifier: Apache-2.0
"""Files of weights: safetensors, and PyTorch's without running what they hold."""

import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxbn._checks.convert import (
    check_installed,
    check_only_arrays,
    check_suffix,
    check_weights,
)

SAFETENSORS = ".safetensors"


def load_weights(path: str | Path) -> dict[str, Any]:
    """Reads a file of weights: safetensors, or what PyTorch's `torch.save` wrote.

    `weights[name]` is the array of that name. PyTorch's files are read by
    `torch.load(path, weights_only=True)`, which runs no code that they hold.

    Args:
        path: a file whose name ends in `.safetensors`, which needs safetensors, or in
            `.pth`, `.pt` or `.bin`, which needs PyTorch.

    Returns:
        The arrays by name: NumPy's from safetensors, tensors from PyTorch. Where a
        checkpoint holds more, that too; give `from_torch` the entry with the weights.

    Raises:
        ModuleNotFoundError: the package that reads this kind of file is not installed.
        ValueError: the name ends otherwise, or the file holds more than data.

    Example:
        >>> import tempfile, pathlib
        >>> import numpy as np
        >>> from jaxbn.convert import load_weights, save_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "norm.safetensors"
        ...     save_weights({"norm.weight": np.ones(3, np.float32)}, path)
        ...     load_weights(path)
        {'norm.weight': array([1., 1., 1.], dtype=float32)}

    References:
        https://huggingface.co/docs/safetensors; `torch.load` of PyTorch.
    """
    path = Path(path)
    check_suffix(path.suffix, (SAFETENSORS, ".pth", ".pt", ".bin"))
    if path.suffix == SAFETENSORS:
        with check_installed("safetensors"):
            from safetensors.numpy import load_file
        return load_file(path)
    with check_installed("torch"):
        # Without PyTorch, a type checker takes `torch.py` in this folder for it.
        torch = importlib.import_module("torch")
    with check_only_arrays(path, pickle.UnpicklingError):
        return torch.load(path, map_location="cpu", weights_only=True)


def save_weights(weights: Mapping[str, Any], path: str | Path) -> None:
    """Writes arrays by name, such as those of `to_torch`, to a file of safetensors.

    `load_weights(path)[name]` is `weights[name]`, bit for bit.

    Args:
        weights: arrays of NumPy or JAX, or tensors of PyTorch, by name.
        path: the file; its name ends in `.safetensors`. A file there is replaced.

    Returns:
        Nothing.

    Raises:
        ModuleNotFoundError: safetensors is not installed.
        TypeError: `weights` is not a mapping.
        ValueError: an entry is not an array, or the name ends otherwise.

    Example:
        >>> import tempfile, pathlib
        >>> import numpy as np
        >>> from jaxbn.convert import save_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "norm.safetensors"
        ...     save_weights({"norm.weight": np.ones(3, np.float32)}, path)
        ...     path.exists()
        True

    References:
        https://huggingface.co/docs/safetensors.
    """
    path = Path(path)
    check_suffix(path.suffix, (SAFETENSORS,))
    check_weights(weights)
    with check_installed("safetensors"):
        from safetensors.numpy import save_file
    arrays = {name: to_numpy(value) for name, value in weights.items()}
    save_file({name: in_order(value) for name, value in arrays.items()}, path)


def to_numpy(value: Any) -> np.ndarray:
    """An array, or a tensor of PyTorch's, whose bfloat16 NumPy does not know."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    value = value.detach().cpu()
    if str(value.dtype) == "torch.bfloat16":
        return value.float().numpy().astype(ml_dtypes.bfloat16)
    return value.numpy()


def in_order(array: np.ndarray) -> np.ndarray:
    """A copy with the values in the order of the axes, which writers need."""
    return np.array(array, order="C")
