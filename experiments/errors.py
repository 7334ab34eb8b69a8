# SPDX-License-Identifier: Apache-2.0
"""The error that is shown to the user as one line, and how other texts become one."""

import errno
import os

FIXES = {
    "free some space": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "change its permissions, or name another place": (
        errno.EACCES, errno.EPERM, errno.EROFS,
    ),
    "name a file": (errno.EISDIR,),
    "name another place": (errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP),
    "take a shorter name": (errno.ENAMETOOLONG,),
    "close other programs": (errno.EMFILE, errno.ENFILE),
}  # fmt: skip
"""What a user can do about an error of the system."""


class UserError(Exception):
    """An error the user can fix: shown without a traceback, exit status 2."""


class SharedError(UserError):
    """An error that each of several processes meets; the first of them shows it."""


def of_system(error: OSError) -> UserError:
    """Returns the error to show instead: the file, what is wrong, and the fix."""
    if error.strerror is None:  # raised by Python code, in words
        return UserError(str(error))
    where = ""
    if isinstance(error.filename, str | bytes):
        where = f"`{os.fsdecode(error.filename)}`: "
    fixes = [fix for fix, numbers in FIXES.items() if error.errno in numbers]
    return UserError(f"{where}{error.strerror}{''.join(f'; {fix}' for fix in fixes)}.")


def shortage(error: Exception) -> UserError | None:
    """Returns the error to show instead, if this one tells that memory ran out.

    XLA's errors are known by their words, since nothing of JAX is imported here.
    """
    if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
        return None
    return UserError(
        f"there is too little memory ({first_line(error)}); a smaller batch or network "
        "needs less, and `train ... --dry-run` shows how much."
    )


def first_line(error: Exception) -> str:
    """Returns the first line of what another library's error says, to end a sentence.

    Its own full stop is left out.
    """
    return (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")


def printable(text: str) -> str:
    """Returns the text with escapes for what has no picture, such as a line break.

    Names of files may hold anything; with their escapes a message is one line.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
