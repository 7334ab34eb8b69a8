# SPDX-License-Identifier: Apache-2.0
"""Checks of models that accumulate the moments of micro-batches."""

from collections.abc import Collection, Mapping
from typing import Any


def check_is_mapping(tree: object, *, name: str) -> None:
    """Variables are found by their names."""
    if not isinstance(tree, Mapping):
        raise TypeError(f"`{name}` must be a mapping, got {type(tree).__name__}.")


def check_idle(accumulating: Collection[str]) -> None:
    """To begin again would lose what was accumulated."""
    if accumulating:
        raise ValueError(
            "`begin_accumulation` must come before all micro-batches, got a second one "
            f"for `{next(iter(accumulating))}`; call `commit` first."
        )


def check_accumulates(accumulating: Collection[Any], *, name: str) -> None:
    """Without a beginning there is nothing to commit."""
    if not accumulating:
        raise ValueError(
            f"`{name}` must have norms that accumulate, got none for `commit`; call "
            "`begin_accumulation` before the micro-batches."
        )
