# SPDX-License-Identifier: Apache-2.0
"""Standard output and error that fail no command.

A run whose reader goes away (`| head`, a pager that is left, a terminal that closes)
continues: hours of training matter more than its lines, and all that it makes is in
files. The same holds for errors that cannot be written, and for nothing else: the
output of a command on a full disk is missed. A character that the encoding lacks is
written in ASCII.
"""

import codecs
import errno
import io
import os
import sys
from typing import Any

PLAIN = {"±": "+-", "✓": "yes", "✗": "no", "…": "..."}
GONE = (errno.EPIPE, errno.EIO)
"""A pipe without reader, and a terminal that was closed."""


class Forgiving(io.FileIO):
    """A file descriptor that takes what nobody reads any more."""

    def write(self, data: Any) -> int:
        """Writes, or drops the data if the reader is gone, or an error has no room."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE and self.fileno() != 2:
                raise
            return memoryview(data).nbytes


def prepare() -> None:
    """Replaces `sys.stdout` and `sys.stderr`; opens those that are closed.

    Otherwise the next file that is opened would take their place, and with it what
    other libraries print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    codecs.register_error("plain", _plain)
    sys.stdout = _open(1, sys.stdout)
    sys.stderr = _open(2, sys.stderr)


def _open(descriptor: int, before: Any) -> io.TextIOWrapper:
    raw = Forgiving(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=None if before is None else before.encoding,
        errors="plain",
        line_buffering=descriptor == 2 or raw.isatty(),
    )


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Writes characters that the encoding lacks by others, or as a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in text), error.end
