# SPDX-License-Identifier: Apache-2.0
"""MNIST and Fashion-MNIST: idx files, packed or not.

A file is two zero bytes, 8 for bytes, the number of axes, their sizes as big-endian
32-bit integers, and the bytes (https://yann.lecun.com/exdb/mnist/).
"""

import math
import struct
from pathlib import Path

import numpy as np

from experiments.data.examples import ArraySource, Dataset
from experiments.data.files import checked_source, find, opened
from experiments.errors import UserError

BYTES = 0x08
MAX_BYTES = 2**32  # after the header
MAX_RATIO = 1032  # of what zlib unpacks to what it packs
NUM_CLASSES = 10
SHAPE = (28, 28, 1)
"""Height, width and channels."""
WHERE = {
    "mnist": "MNIST is at https://yann.lecun.com/exdb/mnist/",
    "fashion_mnist": "Fashion-MNIST is at "
    "https://github.com/zalandoresearch/fashion-mnist",
}


INSTALLED = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Where Debian's package `dataset-fashion-mnist` puts the files."""


def installed(name: str) -> Path:
    """Returns the folder of the files that a package has installed.

    Raises:
        UserError: no package has installed any.
    """
    folder = INSTALLED[name]
    if not folder.is_dir():
        raise UserError(
            f"`data.path` must name the folder of the {name} files where Debian's "
            f"package is not installed (`apt-get install dataset-fashion-mnist` "
            f"puts them into `{folder}`); {WHERE[name]}."
        )
    return folder


def load(folder: Path, name: str) -> Dataset:
    """Reads the four files.

    Raises:
        UserError: a file is missing or broken, or has images of another size.
    """
    train, test = (_read(folder, part, name) for part in ("train", "t10k"))
    return Dataset(train, test, NUM_CLASSES)


def _read(folder: Path, part: str, name: str) -> ArraySource:
    path = _find(folder, f"{part}-images", 3, name)
    image = read_idx(path, 3)[..., None]
    if image.shape[1:] != SHAPE:
        height, width = image.shape[1:3]
        raise UserError(
            f"`{path}` must have images of {SHAPE[0]}x{SHAPE[1]}, got {height}x{width}."
        )
    path = _find(folder, f"{part}-labels", 1, name)
    return checked_source(path, image, read_idx(path, 1), NUM_CLASSES)


def _find(folder: Path, stem: str, ndim: int, name: str) -> Path:
    plain = (f"{stem}-idx{ndim}-ubyte", f"{stem}.idx{ndim}-ubyte")
    return find(folder, [*plain, *(f"{p}.gz" for p in plain)], where=WHERE[name])


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Returns the bytes in their shape.

    Raises:
        UserError: the file is not what its name says, is empty or too large by its
            header, or has more or fewer bytes than that.
    """
    header = 4 + 4 * ndim
    with opened(path) as file:
        shape = _shape(path, file.read(header), ndim)
        num = math.prod(shape)
        # One byte more than there should be shows that there are more.
        content = file.read(min(num, MAX_RATIO * path.stat().st_size) + 1)
    if len(content) != num:
        got = header + len(content) if len(content) < num else "more"
        raise UserError(
            f"`{path}` must have {header + num} bytes for shape {shape}, got {got}; "
            "was its download interrupted?"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _shape(path: Path, header: bytes, ndim: int) -> tuple[int, ...]:
    """Returns the shape in the header, of which nothing is allocated yet."""
    expected = struct.pack(">HBB", 0, BYTES, ndim)
    if header[:4] != expected:
        raise UserError(
            f"`{path}` must start with {expected.hex(' ')}, as idx files of "
            f"{'labels' if ndim == 1 else 'images'} do, got "
            f"{header[:4].hex(' ') or 'nothing'}."
        )
    if len(header) < 4 + 4 * ndim:
        raise UserError(
            f"`{path}` must have a header of {4 + 4 * ndim} bytes, got {len(header)} "
            "in all."
        )
    shape = struct.unpack(f">{ndim}I", header[4:])
    if not 0 < math.prod(shape) <= MAX_BYTES:
        raise UserError(
            f"`{path}` must have from 1 to {MAX_BYTES} bytes after its header, got "
            f"shape {shape} in it."
        )
    return shape
