# SPDX-License-Identifier: Apache-2.0
"""Reads a compiled program: its computations, instructions and sizes."""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# What only renames a buffer, and loops, whose bodies are counted instead.
FREE = {"parameter", "tuple", "bitcast", "get-tuple-element", "constant", "while"}
# What reads or writes a part of its first operand.
SLICES = {"dynamic-slice", "dynamic-update-slice"}
COLLECTIVES = {
    "all-reduce", "all-gather", "collective-permute", "all-to-all", "reduce-scatter",
}  # fmt: skip
SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
         "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8, "c64": 8,
         "c128": 16, "token": 0}  # fmt: skip
"""The bytes of a number."""
INSTRUCTION = re.compile(
    r"\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)(.*)"
)


class Instruction(NamedTuple):
    """One line of HLO."""

    name: str
    type: str
    op: str
    arguments: str
    attributes: str
    is_root: bool  # its result is that of its computation

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
            root, *parts = match.groups()
            result[name].append(Instruction(*parts, is_root=root is not None))
    return result


def num_turns(loop: Instruction, bodies: dict[str, list[Instruction]]) -> int:
    """Returns how often the body of a loop runs; 0 where the program does not tell.

    It does not tell of the loop of jaxbn's `_core/statistics.py`, which mostly does not
    run. It tells of a scan: on CPU and GPU at the loop, on TPU in the condition, where
    the counter, which JAX starts at 0, is less than a constant.
    """
    if told := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(told[1])
    (name,) = re.findall(r"condition=%([\w.\-]+)", loop.attributes)
    constants = {i.name: i.arguments for i in bodies[name] if i.op == "constant"}
    for one in bodies[name]:
        if one.op == "compare" and "direction=LT" in one.attributes:
            return int(constants.get(one.operands[1], 0))
    return 0


def executed(compiled: str) -> Iterator[tuple[Instruction, int]]:
    """Yields the instructions of a compiled program, and how often each runs.

    Of a conditional all branches run; what never runs is left out.
    """
    bodies = computations(compiled)
    runs: dict[str, int] = collections.defaultdict(int)

    def run(name: str, times: int) -> None:
        runs[name] += times
        for one in bodies[name]:
            turns = num_turns(one, bodies) if one.op == "while" else 1
            for called in called_by(one) & bodies.keys() if turns else ():
                run(called, times * turns)

    run("ENTRY", 1)
    for name, body in bodies.items():
        if name in runs:
            yield from ((one, runs[name]) for one in body)


def called_by(one: Instruction) -> set[str]:
    """Returns the computations that an instruction calls, and perhaps other names."""
    return set(re.findall(r"[={,]\s?%([\w.\-]+)", one.attributes))


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


def stored_bytes(type_: str) -> int:
    """Returns the bytes that the arrays take, which on a TPU are made of tiles.

    `f32[3,32]{1,0:T(4,128)}` is stored as 4 times 128 numbers.
    """
    total = 0
    arrays = r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::T\(([\d,]+)\))?)?"
    for dtype, *lists in re.findall(arrays, type_):
        shape, order, tile = ([int(n) for n in t.split(",") if n] for t in lists)
        for axis, side in zip(order, reversed(tile), strict=False):
            shape[axis] = -(-shape[axis] // side) * side
        total += SIZES[dtype] * math.prod(shape)
    return total


def cycles(compiled: str) -> int:
    """Returns the cycles that the TPU's compiler estimates."""
    return sum(
        times * int(number)
        for one, times in executed(compiled)
        for number in re.findall(r'"estimated_cycles":"(\d+)"', one.attributes)
    )


def traffic(compiled: str, *, turns: int | None = None) -> int:
    """Returns the bytes of the operands and results of all kernels.

    Of an operand of which a kernel takes slices these count, of a result that it
    updates in place the update.

    Args:
        compiled: the program.
        turns: of each loop; None: as often as it runs.
    """
    bodies = computations(compiled)

    def of(name: str) -> int:
        types = {one.name: one.type for one in bodies[name]}
        total = 0
        for one in bodies[name]:
            if one.op == "while":
                times = num_turns(one, bodies) if turns is None else turns
                parts = called_by(one) & bodies.keys() if times else ()
                total += times * sum(map(of, parts))
            elif one.op not in FREE:
                total += _bytes_of_kernel(one, types, bodies)
        return total

    return of("ENTRY")


def _bytes_of_kernel(
    kernel: Instruction, types: dict[str, str], bodies: dict[str, list[Instruction]]
) -> int:
    """Returns the bytes that an instruction reads and writes."""
    names, body = kernel.operands, [kernel._replace(is_root=True)]
    if kernel.op == "fusion":
        (called,) = re.findall(r"calls=%([\w.\-]+)", kernel.attributes)
        body = bodies[called]
    if not any(one.op in SLICES for one in body):
        return sum(map(stored_bytes, [kernel.type, *(types[name] for name in names)]))
    if kernel.op == "fusion":
        names = [one.name for one in body if one.op == "parameter"]
        types = {one.name: one.type for one in body}
    (root,) = (one for one in body if one.is_root)
    read = sum(_bytes_read(body, name, types[name]) for name in names)
    return read + _bytes_written(body, root, types)


def _bytes_read(body: list[Instruction], name: str, type_: str) -> int:
    """Returns the bytes that are read of a value."""
    whole, total = stored_bytes(type_), 0
    for one in body:
        if name not in one.operands:
            continue
        if one.op == "bitcast":
            total += _bytes_read(body, one.name, one.type)
        elif one.op in SLICES and one.operands[0] == name:
            total += stored_bytes(one.type) if one.op == "dynamic-slice" else 0
        else:
            return whole
    return min(total, whole)


def _bytes_written(
    body: list[Instruction], result: Instruction, types: dict[str, str]
) -> int:
    """Returns the bytes that are written of a result."""
    if result.op == "dynamic-update-slice":
        return stored_bytes(types[result.operands[1]])
    if result.op not in ("bitcast", "tuple"):
        return stored_bytes(result.type)
    parts = [one for one in body if one.name in result.operands]
    return sum(_bytes_written(body, one, types) for one in parts)
