# SPDX-License-Identifier: Apache-2.0
"""MNIST and Fashion-MNIST: idx files, packed or not.

A file is two zero bytes, 8 for bytes, the number of axes, their sizes as big-endian
32-bit integers, and the bytes (https://yann.lecun.com/exdb/mnist/).
"""

import struct
from pathlib import Path

import numpy as np

from experiments.data.examples import ArraySource, Dataset
from experiments.data.files import checked_source, find, read
from experiments.errors import UserError

BYTES = 0x08
NUM_CLASSES = 10
WHERE = {
    "mnist": "MNIST is at https://yann.lecun.com/exdb/mnist/",
    "fashion_mnist": "Fashion-MNIST is at "
    "https://github.com/zalandoresearch/fashion-mnist",
}


def load(folder: Path, name: str) -> Dataset:
    """Reads the four files."""
    train, test = (_read(folder, part, name) for part in ("train", "t10k"))
    return Dataset(train, test, NUM_CLASSES)


def _read(folder: Path, part: str, name: str) -> ArraySource:
    image = read_idx(_find(folder, f"{part}-images", 3, name), 3)
    path = _find(folder, f"{part}-labels", 1, name)
    return checked_source(path, image[..., None], read_idx(path, 1), NUM_CLASSES)


def _find(folder: Path, stem: str, ndim: int, name: str) -> Path:
    plain = (f"{stem}-idx{ndim}-ubyte", f"{stem}.idx{ndim}-ubyte")
    return find(folder, [*plain, *(f"{p}.gz" for p in plain)], where=WHERE[name])


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Returns the bytes in their shape.

    Raises:
        UserError: the file is not what its name says, or is cut short.
    """
    data = read(path)
    expected = struct.pack(">HBB", 0, BYTES, ndim)
    if data[:4] != expected:
        raise UserError(
            f"`{path}` must start with {expected.hex(' ')}, as idx files of {ndim} "
            f"axes do, got {data[:4].hex(' ') or 'nothing'}."
        )
    header = 4 + 4 * ndim
    if len(data) < header:
        raise UserError(
            f"`{path}` must have a header of {header} bytes, got {len(data)} in all."
        )
    shape = struct.unpack(f">{ndim}I", data[4:header])
    size = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != size:
        raise UserError(
            f"`{path}` must have {size} bytes for shape {shape}, got {len(data)}; was "
            "its download interrupted?"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
