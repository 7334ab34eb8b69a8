# SPDX-License-Identifier: Apache-2.0
"""Affine maps `scale * z + shift` in float64, and how they move along operations.

Their arrays have the rank of the value, and size 1 along each axis on which they do not
depend, so that a batch of any size is an axis like another.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxbn._folding.graph import Evaluation, Operation, Value

Array = Any  # of NumPy, in double precision


def _rsqrt(x: Array) -> Array:
    return 1 / np.sqrt(x)


ELEMENTWISE: dict[str, Callable[..., Array]] = {
    "abs": np.abs,
    "add": np.add,
    "div": np.divide,
    "eq": np.equal,
    "exp": np.exp,
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "log": np.log,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "pow": np.power,
    "rsqrt": _rsqrt,
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": np.subtract,
}


class Map(NamedTuple):
    """`scale * z + shift`."""

    scale: Array
    shift: Array

    def then(self, other: "Map") -> "Map":
        """This map, and the other one after it."""
        shift = other.scale * self.shift + other.shift
        return Map(other.scale * self.scale, shift)

    def moved(self, move: Callable[[Array], Array]) -> "Map":
        """The map of a value that is laid out otherwise."""
        return Map(move(self.scale), move(self.shift))

    @property
    def is_finite(self) -> bool:
        """Whether both arrays are."""
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())

    @property
    def shape(self) -> tuple[int, ...]:
        """Both arrays broadcast to it."""
        return np.broadcast_shapes(self.scale.shape, self.shift.shape)

    def depends_only_on(self, axes: Sequence[int]) -> bool:
        """Whether it is constant along all other axes."""
        return all(n == 1 for a, n in enumerate(self.shape) if a not in axes)


def identity(rank: int) -> Map:
    """The map that changes nothing."""
    return Map(np.ones((1,) * rank), np.zeros((1,) * rank))


class Constants:
    """Fixed values in double precision, computed from the params on the host."""

    def __init__(self, leaves: dict[str, Any]) -> None:
        """Starts from the leaves."""
        self.traced = Evaluation(leaves)
        self.known: dict[Value, Array] = {}

    def __getitem__(self, value: Value) -> Array:
        """The value, with size 1 along axes that it was only repeated on."""
        if value not in self.known:
            self.known[value] = self._compute(value)
        return self.known[value]

    def full(self, value: Value) -> Array:
        """The value, in its whole shape."""
        return np.broadcast_to(self[value], value.aval.shape)

    def _compute(self, value: Value) -> Array:
        operation = value.origin
        if operation is None:
            return _wide(self.traced[value])
        name, params = operation.name, operation.params
        rank = len(value.aval.shape)
        if name in ELEMENTWISE:
            operands = [self[operand] for operand in operation.operands]
            with np.errstate(all="ignore"):  # what is not finite is refused later
                result = np.asarray(ELEMENTWISE[name](*operands))
        elif name == "integer_pow":
            result = self[operation.operands[0]] ** params["y"]
        elif name == "select_n" and len(operation.operands) == 3:
            which, *cases = (self[operand] for operand in operation.operands)
            result = np.where(which != 0, cases[1], cases[0])
        elif name == "convert_element_type":
            result, dtype = self[operation.operands[0]], params["new_dtype"]
            if not jnp.issubdtype(dtype, jnp.inexact):
                result = result.astype(dtype)
            elif result.dtype.kind in "biu":
                result = result.astype(np.float64)  # narrow floats: once, at the end
        elif is_layout(operation):
            return relaid(operation, self[operation.operands[0]])
        elif name == "copy":
            result = self[operation.operands[0]]
        else:
            return _wide(self.traced[value])
        return result.reshape((1,) * rank) if result.ndim == 0 else result


def _wide(x: Any) -> Array:
    """In double precision; integers and flags as they are."""
    x = np.asarray(x)
    if x.dtype.kind in "biu":
        return x
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def is_layout(operation: Operation) -> bool:
    """Whether it changes the axes of its operand and nothing else."""
    if operation.name == "reshape":
        return operation.params["dimensions"] is None
    return operation.name in ("transpose", "squeeze", "expand_dims", "broadcast_in_dim")


def relaid(operation: Operation, x: Array, *, back: bool = False) -> Array:
    """The array of an operand as that of the result, or back."""
    before, after = operation.operands[0].aval.shape, operation.results[0].aval.shape
    if operation.name == "transpose":
        order = operation.params["permutation"]
        return np.transpose(x, np.argsort(order) if back else order)
    if operation.name == "broadcast_in_dim":
        axes = operation.params["broadcast_dimensions"]
        if back:
            return x.reshape([x.shape[axis] for axis in axes])
        shape = [1] * len(after)
        for size, axis in zip(x.shape, axes, strict=True):
            shape[axis] = size
        return x.reshape(shape)
    return reshaped(x, after, before) if back else reshaped(x, before, after)


def reshaped(x: Array, before: Sequence[Any], after: Sequence[Any]) -> Array:
    """Reshapes an array that stands for one of the shape `before`.

    Axes are taken in groups that hold the same number of values on either side; a group
    on which the array does not depend has size 1 on both.
    """
    shape: list[int] = []
    new: list[int] = []
    for old_axes, new_axes in _groups(before, after):
        if all(x.shape[a] == 1 for a in old_axes):
            shape += [1] * len(old_axes)
            new += [1] * len(new_axes)
        else:
            shape += [int(before[a]) for a in old_axes]
            new += [int(after[a]) for a in new_axes]
    return np.broadcast_to(x, shape).reshape(new)


def _groups(before: Sequence[Any], after: Sequence[Any]) -> list[tuple[range, range]]:
    """The finest groups of adjacent axes with equal products."""
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        start, first = i, j
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while (left := math.prod(before[start:i])) != (
            right := math.prod(after[first:j])
        ):
            if j < len(after) and (i == len(before) or right < left):
                j += 1
            else:
                i += 1
        groups.append((range(start, i), range(first, j)))
    return groups
