# SPDX-License-Identifier: Apache-2.0
"""Files of data sets: found, read and checked, with errors that name them."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.data.examples import ArraySource
from experiments.errors import UserError


def find(folder: Path, names: Sequence[str], *, where: str) -> Path:
    """Returns the first of these names that exists in the folder or in one below it.

    Raises:
        UserError: none exists; the error lists them and says `where` to get them.
    """
    if not folder.is_dir():
        raise UserError(f"`data.path` must be a folder, got `{folder}`; {where}.")
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    for place in (folder, *below):
        for name in names:
            if (place / name).is_file():
                return place / name
    wanted = " or ".join(f"`{name}`" for name in names)
    raise UserError(
        f"`data.path` must hold {wanted}, itself or in a folder below, but `{folder}` "
        f"does not; {where}."
    )


def read(path: Path) -> bytes:
    """Returns the bytes of a file, unpacked if it is a `.gz`.

    Raises:
        UserError: it cannot be unpacked.
    """
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise UserError(f"`{path}` cannot be unpacked: {error}.") from error


def checked_source(
    path: Path, image: np.ndarray, label: np.ndarray, num_classes: int
) -> ArraySource:
    """Returns the examples, the labels of which are in the file at `path`.

    Raises:
        UserError: there is not one label for each image, or a label is out of range.
    """
    if len(label) != len(image):
        raise UserError(
            f"`{path}` must have a label for each of {len(image)} images, got "
            f"{len(label)}."
        )
    if label.size and not 0 <= label.min() <= label.max() < num_classes:
        raise UserError(
            f"`{path}` must have labels from 0 to {num_classes - 1}, got {label.min()} "
            f"to {label.max()}."
        )
    return ArraySource(image, label.astype(np.int32))
