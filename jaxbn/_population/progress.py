# SPDX-License-Identifier: Apache-2.0
"""The progress of a long computation, shown on a terminal."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def shown(items: Iterable[Item], title: str) -> Iterable[Item]:
    """Yields the items, and shows a transient bar on a terminal's error stream."""
    console = Console(stderr=True)
    return track(
        items, title, console=console, transient=True, disable=not console.is_terminal
    )


def silent(items: Iterable[Item], _: str) -> Iterable[Item]:
    """Shows nothing."""
    return items
