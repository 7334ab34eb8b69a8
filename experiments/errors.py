# SPDX-License-Identifier: Apache-2.0
"""The error that is shown to the user as one line."""


class UserError(Exception):
    """An error the user can fix: shown without a traceback, exit status 2."""
