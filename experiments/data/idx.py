# SPDX-License-Identifier: Apache-2.0
"""MNIST and Fashion-MNIST: idx files, packed or not.

A file is two zero bytes, 8 for bytes, the number of axes, their sizes as big-endian
32-bit integers, and the bytes (https://yann.lecun.com/exdb/mnist/).
"""

import struct
from pathlib import Path

import numpy as np

from experiments.data.examples import ArraySource, Dataset
from experiments.data.files import find, read
from experiments.errors import UserError

BYTES = 0x08
WHERE = {
    "mnist": "MNIST is at https://yann.lecun.com/exdb/mnist/",
    "fashion_mnist": "Fashion-MNIST is at "
    "https://github.com/zalandoresearch/fashion-mnist",
}


def load(folder: Path, name: str) -> Dataset:
    """Reads the four files."""
    parts = []
    for part in ("train", "t10k"):
        images = read_idx(_find(folder, f"{part}-images", 3, name), 3)
        labels_path = _find(folder, f"{part}-labels", 1, name)
        labels = read_idx(labels_path, 1)
        if len(images) != len(labels):
            raise UserError(
                f"`{labels_path}` has {len(labels)} labels for {len(images)} images."
            )
        if labels.size and labels.max() > 9:
            raise UserError(
                f"`{labels_path}` has the label {labels.max()}, not 0 to 9."
            )
        parts.append(ArraySource(images[..., None], labels.astype(np.int32)))
    return Dataset(train=parts[0], test=parts[1], num_classes=10)


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
            f"`{path}` must begin with {expected.hex(' ')}, as idx files of {ndim} "
            f"axes do, got {data[:4].hex(' ') or 'nothing'}."
        )
    header = 4 + 4 * ndim
    if len(data) < header:
        raise UserError(f"`{path}` is cut short: {len(data)} bytes, no whole header.")
    shape = struct.unpack(f">{ndim}I", data[4:header])
    size = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != size:
        raise UserError(
            f"`{path}` must have {size} bytes for shape {shape}, got {len(data)}; was "
            "its download interrupted?"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
