# SPDX-License-Identifier: Apache-2.0
"""Counts, in a compiled program, the reads and writes of full-size tensors."""

import re
from collections.abc import Callable
from typing import NamedTuple

import jax

from experiments.hardware.hlo import (
    COLLECTIVES,
    FREE,
    Instruction,
    computations,
    executed,
    sizes_of,
)

# What reads a few rows of its operand.
ROWS = {"slice", "dynamic-slice", "gather"}


class Passes(NamedTuple):
    """Full-size operands read and results written by all instructions of a program."""

    reads: int
    writes: int


def elements(type_: str) -> int:
    """The number of elements of the largest array in an HLO type."""
    return max(sizes_of(type_), default=0)


def reads_rows_only(body: list[Instruction], position: int) -> bool:
    """Whether a fusion uses an operand through slices alone."""
    (name,) = (
        i.name for i in body if i.op == "parameter" and int(i.arguments) == position
    )
    return sliced_only(body, name)


def sliced_only(body: list[Instruction], name: str) -> bool:
    """Whether all users of a value, through bitcasts too, read a few of its rows."""
    users = [i for i in body if name in i.operands]
    return bool(users) and all(
        i.op in ROWS or (i.op == "bitcast" and sliced_only(body, i.name)) for i in users
    )


def passes(function: Callable, *shapes: jax.ShapeDtypeStruct, full: int) -> Passes:
    """Compiles the function and counts its passes over tensors of `full` elements."""
    text = jax.jit(function).lower(*shapes).compile().as_text()
    bodies = computations(text)
    types = {i.name: i.type for i in bodies["ENTRY"]}
    reads = writes = 0
    for instruction in bodies["ENTRY"]:
        if instruction.op in FREE:
            continue
        called = re.search(r"calls=%?([\w.\-]+)", instruction.attributes)
        for position, operand in enumerate(instruction.operands):
            if elements(types[operand]) < full or instruction.op in ROWS:
                continue
            if called and reads_rows_only(bodies[called[1]], position):
                continue
            reads += 1
        writes += elements(instruction.type) >= full
    return Passes(reads, writes)


def without_loops(lowered: str) -> str:
    """A lowered program without its loops, which mostly do not run."""
    while (start := lowered.find(" = stablehlo.while(")) >= 0:
        end = after_braces(lowered, after_braces(lowered, start))  # condition and body
        lowered = lowered[:start] + lowered[end:]
    return lowered


def after_braces(text: str, start: int) -> int:
    """Where the next block in braces that spans lines ends."""
    depth, end = 0, text.index("{\n", start)
    while True:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
        if depth == 0:
            return end


def collectives(compiled: str) -> list[int]:
    """How many numbers each collective of a compiled program sends."""
    return [
        sum(sizes_of(one.type))
        for one, times in executed(compiled)
        if one.op.removesuffix("-start") in COLLECTIVES
        for _ in range(times)
    ]
