# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a command's arguments, in one line.

tyro draws a box of many lines, and offers others no public way to the mistake itself.
Where it does not write to a terminal the box is plain text: a title, and sections with
lines of `-` between them.
"""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from experiments.errors import UserError

Parsed = TypeVar("Parsed")
WIDTH = str(10**6)
"""Columns, so that no line is broken."""
MOST = 3
"""Options that a mistake offers."""


def in_one_line(parse: Callable[[], Parsed], *, usage: str, program: str) -> Parsed:
    """Returns what tyro parses; what it shows on `--help` is shown.

    Args:
        parse: calls tyro.
        usage: what the command takes, told where an argument is missing.
        program: the command that `--help` follows.

    Raises:
        UserError: an argument is wrong.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return parse()
    except SystemExit as ended:
        if not ended.code:
            raise
    raise UserError(_mistake(_box_of(parse), usage, program))


def _box_of(parse: Callable[[], Any]) -> str:
    """Returns the box, drawn as into a file of this width."""
    box, plain = io.StringIO(), io.StringIO()
    with (
        _columns(WIDTH),
        contextlib.redirect_stderr(box),
        contextlib.redirect_stdout(plain),
        contextlib.suppress(SystemExit),
    ):
        parse()
    return box.getvalue()


@contextlib.contextmanager
def _columns(width: str) -> Iterator[None]:
    """In this block, the width of the terminal is this one."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = width
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _mistake(box: str, usage: str, program: str) -> str:
    """Returns the sentence."""
    sections = re.split(r"^ *-+ *$", box, flags=re.MULTILINE)
    title, what, *others = [section.strip() for section in sections]
    if title == "Required options":
        return f"`{program}` takes {usage}; see --help."
    # The errors of each type that an argument may have follow an empty line.
    text = " ".join(re.split(r"\n\s*\n", what)[0].split())
    text = text.removeprefix("Error parsing ")
    place, _, own = text.partition(": ")
    if own.startswith("`") and not place.startswith("-"):  # the place is in it
        return own
    text = text[:1].lower() + text[1:].rstrip(".")
    close = re.findall(r"^ *(--\S.*?) *$", "\n".join(others), re.MULTILINE)[:MOST]
    if close and title == "Unrecognized options":
        text += f"; the closest is {', '.join(f'`{option}`' for option in close)}"
    return f"{text}; see `{program} --help`."
