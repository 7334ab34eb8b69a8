# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 and CIFAR-100, the binary or the Python version.

A binary record is the label (for CIFAR-100 the coarse, then the fine one) and the
image, channels first (https://www.cs.toronto.edu/~kriz/cifar.html).
"""

import io
import math
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.examples import ArraySource, Dataset
from experiments.data.files import checked_source, find
from experiments.errors import UserError, first_line

WHERE = "CIFAR is at https://www.cs.toronto.edu/~kriz/cifar.html"
SHAPE = (32, 32, 3)
"""Height, width and channels."""
PIXELS = math.prod(SHAPE)


class Version(NamedTuple):
    """The files of a data set, without `.bin`, and where they hold the labels."""

    train: tuple[str, ...]
    test: str
    num_classes: int
    label_bytes: int  # at the start of a record; the last is the label
    label_key: str


VERSIONS = {
    "cifar10": Version(
        tuple(f"data_batch_{k}" for k in range(1, 6)), "test_batch", 10, 1, "labels"
    ),
    "cifar100": Version(("train",), "test", 100, 2, "fine_labels"),
}


def load(folder: Path, name: str) -> Dataset:
    """Reads the training files and the test file."""
    version = VERSIONS[name]
    parts = [_read(folder, file, version) for file in version.train]
    image = np.concatenate([part.image for part in parts])
    label = np.concatenate([part.label for part in parts])
    test = _read(folder, version.test, version)
    return Dataset(ArraySource(image, label), test, version.num_classes)


def _read(folder: Path, name: str, version: Version) -> ArraySource:
    path = find(folder, (f"{name}.bin", name), where=WHERE)
    read = _read_binary if path.suffix == ".bin" else _read_pickle
    pixels, label = read(path, version)
    image = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    image = np.ascontiguousarray(image)
    return checked_source(path, image, label, version.num_classes)


def _read_binary(path: Path, version: Version) -> tuple[np.ndarray, np.ndarray]:
    record, length = version.label_bytes + PIXELS, path.stat().st_size
    if length == 0 or length % record:
        raise UserError(
            f"`{path}` must have records of {record} bytes, got {length} bytes in all; "
            "was its download interrupted?"
        )
    rows = np.fromfile(path, np.uint8).reshape(-1, record)
    return rows[:, version.label_bytes :], rows[:, version.label_bytes - 1]


class _ArraysOnly(pickle.Unpickler):
    """A pickle may run any code; CIFAR's need only what makes an array."""

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
        """Refuses all names but these."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return super().find_class(module, name)


def _read_pickle(path: Path, version: Version) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        pixels = _integers(path, batch, "data", (PIXELS,))
        label = _integers(path, batch, version.label_key, ())
    except UserError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise UserError(
            f"`{path}` is not a batch of CIFAR: {type(error).__name__}: "
            f"{first_line(error)}."
        ) from error
    if len(pixels) == 0:
        raise UserError(f"`{path}` must have at least one image, got none.")
    if not 0 <= pixels.min() <= pixels.max() <= 255:
        raise UserError(
            f"`{path}` must have values from 0 to 255 in `data`, got {pixels.min()} to "
            f"{pixels.max()}."
        )
    return pixels.astype(np.uint8), label


def _integers(path: Path, batch: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the integers that a batch has by this name, `shape` for each example.

    Raises:
        UserError: there are no such integers.
    """
    if not isinstance(batch, dict):
        raise UserError(
            f"`{path}` must hold a dictionary, as CIFAR's batches do, got "
            f"{type(batch).__name__}."
        )
    keys = [key for key in (name.encode(), name) if key in batch]
    if not keys:
        raise UserError(
            f"`{path}` must have the entry `{name}`, got {len(batch)} other entries."
        )
    values = np.asarray(batch[keys[0]])
    fits = values.ndim == 1 + len(shape) and values.shape[1:] == shape
    if values.dtype.kind not in "iu" or not fits:
        expected = f"(n, {PIXELS})" if shape else "(n,)"
        raise UserError(
            f"`{path}` must have integers of shape {expected} in `{name}`, got "
            f"{values.dtype} of shape {values.shape}."
        )
    return values
