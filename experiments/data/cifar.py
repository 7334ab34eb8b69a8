# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 and CIFAR-100, the binary or the Python version.

A binary record is the label (for CIFAR-100 the coarse, then the fine one) and the
image, channels first (https://www.cs.toronto.edu/~kriz/cifar.html).
"""

import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.examples import ArraySource, Dataset
from experiments.data.files import find
from experiments.errors import UserError

WHERE = "CIFAR is at https://www.cs.toronto.edu/~kriz/cifar.html"
PIXELS = 3 * 32 * 32


class Version(NamedTuple):
    """The files of a data set, without `.bin`, and how labels stand in them."""

    train: tuple[str, ...]
    test: str
    num_classes: int
    label_bytes: int  # of which the last is the label
    label_key: bytes


VERSIONS = {
    "cifar10": Version(
        tuple(f"data_batch_{k}" for k in range(1, 6)), "test_batch", 10, 1, b"labels"
    ),
    "cifar100": Version(("train",), "test", 100, 2, b"fine_labels"),
}


def load(folder: Path, name: str) -> Dataset:
    """Reads the training files and the test file."""
    version = VERSIONS[name]
    parts = [_read(folder, file, version) for file in version.train]
    image, label = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    train, test = (image, label), _read(folder, version.test, version)
    return Dataset(ArraySource(*train), ArraySource(*test), version.num_classes)


def _read(folder: Path, name: str, version: Version) -> tuple[np.ndarray, np.ndarray]:
    path = find(folder, (f"{name}.bin", name), where=WHERE)
    read = _read_binary if path.suffix == ".bin" else _read_pickle
    pixels, label = read(path, version)
    if label.size and not 0 <= label.min() <= label.max() < version.num_classes:
        raise UserError(
            f"`{path}` must have labels from 0 to {version.num_classes - 1}, got "
            f"{label.min()} to {label.max()}."
        )
    image = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(image), label.astype(np.int32)


def _read_binary(path: Path, version: Version) -> tuple[np.ndarray, np.ndarray]:
    data = np.fromfile(path, np.uint8)
    record = version.label_bytes + PIXELS
    if len(data) == 0 or len(data) % record:
        raise UserError(
            f"`{path}` must have records of {record} bytes, got {len(data)} bytes; was "
            "its download interrupted?"
        )
    rows = data.reshape(-1, record)
    return rows[:, version.label_bytes :], rows[:, version.label_bytes - 1]


class _ArraysOnly(pickle.Unpickler):
    """A pickle may run any code; these need no more than to make an array."""

    ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Refuses all other names."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it wants {module}.{name}")
        return super().find_class(module, name)


def _read_pickle(path: Path, version: Version) -> tuple[np.ndarray, np.ndarray]:
    try:
        held = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        pixels = np.asarray(held[b"data"], np.uint8)
        label = np.asarray(held[version.label_key], np.int64)
        fits = pixels.shape == (len(label), PIXELS)
    except Exception as error:  # what a broken pickle raises is not limited
        raise UserError(
            f"`{path}` is not a batch of CIFAR: {type(error).__name__}: {error}."
        ) from error
    if not fits:
        raise UserError(
            f"`{path}` must have {PIXELS} bytes for each of {len(label)} labels, got "
            f"an array of shape {pixels.shape}."
        )
    return pixels, label
