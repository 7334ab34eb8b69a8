# SPDX-License-Identifier: Apache-2.0
"""Whether a network and its steps fit into the memory, found out before they take any.

It would otherwise fill the memory for minutes, until the system kills the process.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
from rich.filesize import decimal

from experiments.errors import SharedError


def require_room(state: Any, devices: Sequence[Any]) -> None:
    """Requires room for two states on each device, the old one and the new one.

    A step needs more than that, which is known once it is compiled.

    Args:
        state: a `TrainState`; shapes and dtypes are enough.
        devices: those of this process that have one.

    Raises:
        SharedError: there is less.
    """
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    room, where, sharing = _room(devices)
    copies = 2 * sharing
    if copies * size > room:
        raise SharedError(
            f"the network with its optimizer must fit into memory {copies} times, "
            f"{copies} x {decimal(size)}, but {where} has {decimal(room)}; make "
            "model.hidden smaller, or take fewer devices of a CPU."
        )


def require_room_for(
    compiled: Any, devices: Sequence[Any], what: str, *, smaller: str
) -> None:
    """Requires room for what a compiled step takes, makes, and needs in between.

    Args:
        compiled: the step.
        devices: those of this process that take it.
        what: names it.
        smaller: the fields that make it smaller.

    Raises:
        SharedError: there is less.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:  # some backends have none
        return
    size = peak_of(analysis)
    room, where, sharing = _room(devices)
    if sharing * size > room:
        times = f"{sharing} x " if sharing > 1 else ""
        raise SharedError(
            f"{what} needs {times}{decimal(size)} of memory, "
            f"{decimal(analysis.temp_size_in_bytes)} of it for temporary arrays, but "
            f"{where} has {decimal(room)}; make {smaller} smaller, or take fewer "
            "devices of a CPU."
        )


def peak_of(analysis: Any) -> int:
    """Returns the bytes of a device that a compiled step takes, makes and needs."""
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def _room(devices: Sequence[Any]) -> tuple[int, str, int]:
    """Returns the bytes, where they are, and how many devices share them."""
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"], "a device", 1
    # A CPU, whose devices share the memory.
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return room, "this machine", len(devices)
