# SPDX-License-Identifier: Apache-2.0
"""How a process ends that nothing interrupts: at once, when its work is done.

Python would free its modules and arrays one by one, and JAX its compiled programs, for
seconds in which nothing is left to do and the user waits.
"""

import atexit
import contextlib
import os
import sys
from typing import NoReturn

_status = 1  # of an exception that nobody caught


def prepare() -> None:
    """Makes the end quick; a program calls it before it imports JAX.

    What libraries have to do at the end is registered later, and done before.
    """
    atexit.register(_end)


def leave(status: int) -> NoReturn:
    """Ends the process with this exit status."""
    global _status
    _status = status
    sys.exit(status)


def _end() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # full, or closed
            stream.flush()
    os._exit(_status)
