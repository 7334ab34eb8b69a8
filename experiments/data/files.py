# SPDX-License-Identifier: Apache-2.0
"""Files of data sets: found, or an error that says what was looked for and where."""

import gzip
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import UserError


def find(folder: Path, names: Sequence[str], *, where: str) -> Path:
    """Returns the first of the names that is there, in the folder or just below.

    Raises:
        UserError: none is; it says which were looked for and `where` people get them.
    """
    if not folder.is_dir():
        raise UserError(f"data.path `{folder}` is not a folder; {where}.")
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    for place in (folder, *below):
        for name in names:
            if (place / name).is_file():
                return place / name
    wanted = " or ".join(f"`{name}`" for name in names)
    raise UserError(
        f"data.path `{folder}` lacks {wanted}, also in the folders below; {where}."
    )


def read(path: Path) -> bytes:
    """Returns what the file holds, unpacked.

    Raises:
        UserError: it does not unpack.
    """
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise UserError(f"`{path}` does not unpack: {error}.") from error
