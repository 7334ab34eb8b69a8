# SPDX-License-Identifier: Apache-2.0
"""The error that is shown to the user as one line, and how others become a line."""


class UserError(Exception):
    """An error the user can fix: shown without a traceback, exit status 2."""


def first_line(error: Exception) -> str:
    """Returns the first line of what an error of another library says."""
    return (str(error).strip().splitlines() or ["no message"])[0]
