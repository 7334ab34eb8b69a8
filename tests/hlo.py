# SPDX-License-Identifier: Apache-2.0
"""Counts, in a compiled program, the reads and writes of full-size tensors."""

import re
from collections.abc import Callable
from typing import NamedTuple

import jax

# What only renames a buffer.
FREE = {"parameter", "tuple", "bitcast", "get-tuple-element", "constant"}
# What reads a few rows of its operand.
ROWS = {"slice", "dynamic-slice", "gather"}

INSTRUCTION = re.compile(
    r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)(.*)"
)


class Passes(NamedTuple):
    """Full-size operands read and results written by all instructions of a program."""

    reads: int
    writes: int


class Instruction(NamedTuple):
    """One line of HLO."""

    name: str
    type: str
    op: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.arguments)


def computations(text: str) -> dict[str, list[Instruction]]:
    """The instructions of each computation of an HLO module; the entry is "ENTRY"."""
    result: dict[str, list[Instruction]] = {}
    name = ""
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            name = "ENTRY" if header[1] else header[2]
            result[name] = []
        elif match := INSTRUCTION.match(line):
            result[name].append(Instruction(*match.groups()))
    return result


def elements(type_: str) -> int:
    """The number of elements of the largest array in an HLO type."""
    sizes = [0]
    for shape in re.findall(r"\w+\[([\d,]*)\]", type_):
        size = 1
        for extent in filter(None, shape.split(",")):
            size *= int(extent)
        sizes.append(size)
    return max(sizes)


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
