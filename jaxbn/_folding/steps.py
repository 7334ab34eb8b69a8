# SPDX-License-Identifier: Apache-2.0
"""Steps between kernels: affine maps, casts and changes of axes of one moving value."""

import math
from collections.abc import Iterable
from typing import cast

import jax.numpy as jnp
import numpy as np

from jaxbn._folding.graph import Graph, Operation, Value
from jaxbn._folding.maps import Constants, Map, identity, is_layout

AFFINE = ("add", "sub", "mul", "div", "neg")
# `copy` is `jnp.array`, `name` is `checkpoint_name`.
SAME_VALUES = ("convert_element_type", "copy", "name")
WORDS = {
    "add": "an addition",
    "add_any": "an addition",
    "concatenate": "a concatenation",
}


class Refused(Exception):
    """A map cannot go where it was tried; the message is the reason."""


def runs(graph: Graph) -> Iterable[list[Operation]]:
    """The longest chains of maps, layouts and casts of floats, of one use each."""
    seen: set[Operation] = set()
    for operation in graph.moving:
        if operation in seen or not is_step(operation):
            continue
        run = [operation]
        while True:
            value = run[-1].results[0]
            if value.is_output or len(value.uses) != 1 or not is_step(value.uses[0]):
                break
            run.append(value.uses[0])
        seen.update(run)
        if any(operation.name in AFFINE for operation in run):
            yield run


def moving_operand(operation: Operation) -> Value:
    """The operand that a step maps."""
    return operation.operands[cast(int, operation.moving_index)]


def is_step(operation: Operation) -> bool:
    """Whether it maps one moving value, and changes nothing but its axes or dtype."""
    if operation.moving_index is None or len(operation.results) != 1:
        return False
    if operation.passes is not None:
        return True
    before, after = moving_operand(operation), operation.results[0].aval
    if not jnp.issubdtype(before.aval.dtype, jnp.inexact):
        return False
    if not jnp.issubdtype(after.dtype, jnp.inexact):
        return False
    if operation.name in AFFINE:
        known = all(operand.is_known for operand in operation.operands)
        divided = operation.name != "div" or operation.operands[0].moves
        return known and divided and before.aval.shape == after.shape
    if operation.name == "broadcast_in_dim":
        return math.prod(before.aval.shape) == math.prod(after.shape)
    return operation.name in SAME_VALUES or is_layout(operation)


def is_norm(operation: Operation) -> bool:
    """Whether it scales a value by params, which is what norms do."""
    return (
        operation.name in ("mul", "div")
        and is_step(operation)
        and any(operand.leaves and not operand.moves for operand in operation.operands)
    )


def map_of(operation: Operation, constants: Constants) -> Map:
    """The map that one operation applies."""
    rank = len(operation.results[0].aval.shape)
    one = identity(rank)
    if operation.name == "neg":
        return Map(-one.scale, one.shift)
    left, right = operation.operands
    constant = constants[left if right.moves else right]
    constant = constant.astype(np.result_type(constant, np.float64))
    constant = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
    if operation.name == "add":
        return Map(one.scale, constant)
    if operation.name == "sub":
        if right.moves:
            return Map(-one.scale, constant)
        return Map(one.scale, -constant)
    with np.errstate(all="ignore"):
        scale = constant if operation.name == "mul" else 1 / constant
    return Map(scale, one.shift)


def called(operation: Operation) -> str:
    """How messages call an operation."""
    return WORDS.get(operation.name, f"`{operation.title}`")
