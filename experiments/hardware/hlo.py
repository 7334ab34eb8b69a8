# SPDX-License-Identifier: Apache-2.0
"""Reads a compiled program: its computations, instructions and sizes."""

import math
import re
from typing import NamedTuple

# What only renames a buffer, and the loop that does not run: see jaxbn's
# `_core/statistics.py`.
FREE = {"parameter", "tuple", "bitcast", "get-tuple-element", "constant", "while"}
COLLECTIVES = {
    "all-reduce", "all-gather", "collective-permute", "all-to-all", "reduce-scatter",
}  # fmt: skip
SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
         "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8, "c64": 8,
         "c128": 16, "token": 0}  # fmt: skip
"""The bytes of a number."""
INSTRUCTION = re.compile(
    r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)(.*)"
)


class Instruction(NamedTuple):
    """One line of HLO."""

    name: str
    type: str
    op: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        """The names of the instructions whose results it takes."""
        return re.findall(r"%([\w.\-]+)", self.arguments)


def computations(text: str) -> dict[str, list[Instruction]]:
    """Returns the instructions of each computation; the entry is "ENTRY"."""
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


def outside_loops(compiled: str) -> list[Instruction]:
    """Returns the instructions of a compiled program but for those of its loops."""
    bodies = computations(compiled)
    called = r"(?:condition|body)=%?([\w.\-]+)"
    loops = [
        name
        for body in bodies.values()
        for one in body
        if one.op == "while"
        for name in re.findall(called, one.attributes)
    ]
    left_out = reachable(bodies, loops)
    return [
        one for name, body in bodies.items() if name not in left_out for one in body
    ]


def reachable(bodies: dict[str, list[Instruction]], names: list[str]) -> set[str]:
    """Returns the computations that these call, and these."""
    found: set[str] = set()
    while names:
        name = names.pop()
        if name in found or name not in bodies:
            continue
        found.add(name)
        for one in bodies[name]:
            names += re.findall(r"=%?([\w.\-]+)", one.attributes)
    return found


def sizes_of(type_: str) -> list[int]:
    """Returns the number of elements of each array in an HLO type."""
    return [
        math.prod(int(extent) for extent in shape.split(",") if extent)
        for shape in re.findall(r"\w+\[([\d,]*)\]", type_)
    ]


def num_bytes(type_: str) -> int:
    """Returns the bytes of all arrays in an HLO type."""
    dtypes = re.findall(r"(\w+)\[[\d,]*\]", type_)
    sizes = zip(dtypes, sizes_of(type_), strict=True)
    return sum(SIZES[dtype] * size for dtype, size in sizes)


def cycles(compiled: str) -> int:
    """Returns the cycles that the TPU's compiler estimates, loops apart."""
    return sum(
        int(number)
        for one in outside_loops(compiled)
        for number in re.findall(r'"estimated_cycles":"(\d+)"', one.attributes)
    )


def traffic(compiled: str) -> int:
    """Returns the bytes of the operands and results of all kernels."""
    entry = computations(compiled)["ENTRY"]
    types = {i.name: i.type for i in entry}
    return sum(
        num_bytes(i.type) + sum(num_bytes(types[name]) for name in i.operands)
        for i in entry
        if i.op not in FREE
    )
