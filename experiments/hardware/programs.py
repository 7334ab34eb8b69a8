# SPDX-License-Identifier: Apache-2.0
"""Compiles for a target, and collects what the compiler tells of the program."""

import collections
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import SingleDeviceSharding

from experiments.hardware import hlo
from experiments.hardware.targets import Target
from experiments.train.memory import peak_of

TOO_LARGE = re.compile(
    r"RESOURCE_EXHAUSTED.*?([\d.]+)([KMGT])\)? (?:exceeds available HBM \(|of )"
    r"([\d.]+)([KMGT])",
    re.DOTALL,
)
"""How libtpu says what a program needs, and what it may use."""
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Costs(NamedTuple):
    """What a compiled program takes, on each device."""

    arguments: int  # bytes
    outputs: int
    temp: int
    peak: int
    traffic: float  # bytes that kernels read and write
    cycles: int | None  # that the compiler of a TPU estimates
    collectives: dict[str, tuple[int, int]]
    """The number of each kind, and the bytes that a device gives to them together."""


class TooLarge(NamedTuple):
    """The compiler found no room for the program; in bytes."""

    needed: int
    room: int


def compiled_for(
    target: Target, function: Callable, shapes: Any, *, donate: tuple[int, ...] = ()
) -> jax.stages.Compiled:
    """Returns the program of a function for one device of the target.

    Args:
        target: the hardware.
        function: of the shapes.
        shapes: a tuple of trees of what has shape and dtype.
        donate: the arguments that the program may overwrite.
    """
    sharding = SingleDeviceSharding(target.devices[0])
    shapes = with_sharding(shapes, sharding)
    jitted = jax.jit(function, donate_argnums=donate)
    return lowered(jitted, target, *shapes).compile(target.options)


def with_sharding(shapes: Any, sharding: jax.sharding.Sharding) -> Any:
    """Returns the same tree of shapes, each on its devices."""
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes
    )


def lowered(jitted: Any, target: Target, *shapes: Any) -> jax.stages.Lowered:
    """Returns what the target's compiler takes."""
    return jitted.trace(*shapes).lower(lowering_platforms=(target.platform,))


def costs_of(target: Target, step: jax.stages.Lowered) -> Costs | TooLarge:
    """Compiles the step, and returns what it takes."""
    try:
        program = step.compile(target.options)
    except jax.errors.JaxRuntimeError as error:
        if (found := too_large(str(error))) is None:
            raise
        return found
    text, used = program.as_text() or "", program.memory_analysis()
    assert used is not None
    on_tpu = target.platform == "tpu"
    traffic = hlo.traffic(text)
    if on_tpu:  # its compiler counts each loop once
        analysis: Any = program.cost_analysis()
        traffic += analysis["bytes accessed"] - hlo.traffic(text, turns=1)
    return Costs(
        used.argument_size_in_bytes,
        used.output_size_in_bytes,
        used.temp_size_in_bytes,
        peak_of(used),
        traffic,
        hlo.cycles(text) if on_tpu else None,
        collectives_of(text),
    )


def too_large(error: str) -> TooLarge | None:
    """Returns what the compiler of a TPU says when a program does not fit."""
    found = TOO_LARGE.search(error)
    if found is None:
        return None
    needed, needed_unit, room, unit = found.groups()
    return TooLarge(
        int(float(needed) * UNITS[needed_unit]), int(float(room) * UNITS[unit])
    )


def collectives_of(compiled: str) -> dict[str, tuple[int, int]]:
    """Returns the number of each kind, and the bytes of their operands."""
    found: dict[str, tuple[int, int]] = collections.defaultdict(lambda: (0, 0))
    instructions = list(hlo.executed(compiled))
    types = {one.name: one.type for one, _ in instructions}
    for one, times in instructions:
        kind = one.op.removesuffix("-start")
        if kind in hlo.COLLECTIVES:
            num, size = found[kind]
            given = sum(hlo.num_bytes(types[name]) for name in one.operands)
            found[kind] = num + times, size + times * given
    return dict(found)
