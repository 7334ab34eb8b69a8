# SPDX-License-Identifier: Apache-2.0
"""The kernels that a value comes from: one, or one for each part that it joins."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from jaxbn._folding.graph import Operation, Value
from jaxbn._folding.linear import Linear
from jaxbn._folding.maps import Array, Constants, Map, identity, is_layout, relaid
from jaxbn._folding.steps import (
    AFFINE,
    Refused,
    called,
    is_step,
    map_of,
    moving_operand,
)


class Branch(NamedTuple):
    """The way from a kernel to a value, or to a part of it."""

    target: Linear
    total: Map  # of the target's output
    back: tuple[Callable[[Array], Array], ...] = ()  # from the value to that output
    steps: tuple[Operation, ...] = ()  # that the target takes with the total


def branches_of(
    value: Value,
    linears: Mapping[Operation, Linear],
    passed: Collection[Operation],
    constants: Constants,
) -> list[Branch]:
    """The branches that end in a value, if nothing else uses what is on them."""
    origin = value.origin
    if not value.moves:
        raise Refused("is fixed")
    if origin is None:
        raise Refused("is one of the function's inputs")
    if value.is_output or len(value.uses) > 1:
        raise Refused("is used elsewhere too")
    if origin in linears:
        target = linears[origin]
        return [Branch(target, identity(len(value.aval.shape)))]
    if origin.name == "concatenate":
        axis, start, joined = origin.params["dimension"], 0, list[Branch]()
        for operand in origin.operands:
            size = operand.aval.shape[axis]
            try:
                inner = branches_of(operand, linears, passed, constants)
            except Refused as refusal:
                reason = f"comes from a concatenation, of which a part {refusal}"
                raise Refused(reason) from None
            part = functools.partial(_part, axis=axis, start=start, size=size)
            joined += [branch._replace(back=(part, *branch.back)) for branch in inner]
            start += size
        return joined
    if is_step(origin):
        inner = branches_of(moving_operand(origin), linears, passed, constants)
        if origin in passed:  # its kernel has it already
            return inner
        after = extended(inner, origin, constants)
        if after is not None:
            own = () if is_layout(origin) else (origin,)
            return [b._replace(steps=(*b.steps, *own)) for b in after]
    raise Refused(f"comes from {called(origin)}")


def extended(
    branches: Sequence[Branch], operation: Operation, constants: Constants
) -> list[Branch] | None:
    """The branches to the result of a step; None if it is no map of their features."""
    if is_layout(operation):
        move = functools.partial(relaid, operation, back=True)
        return [branch._replace(back=(move, *branch.back)) for branch in branches]
    if operation.name not in AFFINE:
        return [*branches]
    new: list[Branch] = []
    for branch in branches:
        after = map_of(operation, constants)
        for move in branch.back:
            after = after.moved(move)
        if not after.depends_only_on(branch.target.output_axes):
            return None
        new.append(branch._replace(total=branch.total.then(after)))
    return new


def _part(x: Array, *, axis: int, start: Any, size: Any) -> Array:
    """What belongs to one operand, of an array that stands for a concatenation."""
    if x.shape[axis] == 1:
        return x
    return x.take(range(start, start + size), axis)
