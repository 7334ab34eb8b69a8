# SPDX-License-Identifier: Apache-2.0
"""Files of data sets: found, read and checked, with errors that name them."""

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np

from experiments.data.examples import ArraySource
from experiments.errors import UserError


def is_hidden(name: str) -> bool:
    """Returns whether a system or a program left this behind, as `.DS_Store`."""
    return name.startswith(".") or name == "__MACOSX"


def find(folder: Path, names: Sequence[str], *, where: str) -> Path:
    """Returns the first of these files that is in the folder or in one below it.

    Hidden folders are not searched.

    Raises:
        UserError: there is none; the error lists them and says `where` to get them. Or
            what has the name is a pipe, a device or a broken link.
    """
    if not folder.is_dir():
        raise UserError(f"`data.path` must be a folder, got `{folder}`; {where}.")
    below = sorted(
        path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)
    )
    for path in (place / name for place in (folder, *below) for name in names):
        if path.is_file():
            return path
        if os.path.lexists(path) and not path.is_dir():
            raise UserError(f"`{path}` must be a regular file.")
    wanted = " or ".join(f"`{name}`" for name in names)
    raise UserError(
        f"`data.path` must hold {wanted}, itself or in a folder below, but `{folder}` "
        f"does not; {where}."
    )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file to read, unpacked if it is a `.gz`.

    Raises:
        UserError: it cannot be read or unpacked, also later, while it is open.
    """
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            yield cast(IO[bytes], file)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"`{path}` cannot be {'unpacked' if packed else 'read'}: {error}."
        ) from error


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
