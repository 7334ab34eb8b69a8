# SPDX-License-Identifier: Apache-2.0
"""Which affine maps go into which kernels, and why the others stay."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxbn._folding.branches import branches_of, extended
from jaxbn._folding.graph import Graph, Operation, Value, inside, root_of
from jaxbn._folding.linear import Linear, linear
from jaxbn._folding.maps import Array, Constants, Map, identity, is_layout, relaid
from jaxbn._folding.steps import (
    AFFINE,
    Refused,
    called,
    is_norm,
    is_step,
    map_of,
    moving_operand,
    runs,
)

LARGE_SHIFT = 10  # a digit


class FoldedNorm(NamedTuple):
    """What became of one norm.

    Attributes:
        name: its path in the params, without the names of its own leaves.
        kernels: the params that it was folded into, by name; empty if it was left.
        reason: why it was left, None if it was not.
    """

    name: str
    kernels: tuple[str, ...]
    reason: str | None

    def __str__(self) -> str:
        """One line for people."""
        if self.reason is None:
            return f"{self.name}: folded into {', '.join(self.kernels)}"
        return f"{self.name}: left, {self.reason}"


@dataclasses.dataclass(eq=False, repr=False)
class Decisions:
    """What is done with each operation."""

    linears: dict[Operation, Linear]
    passed: dict[Operation, bool]  # left out; whether the dtype is that of its result
    outcomes: dict[Operation, tuple[list[Linear], str | None]]  # of each norm's scale


def decide(graph: Graph, constants: Constants) -> Decisions:
    """Folds each run of affine maps backward, and what is left of it forward."""
    found = {operation: linear(operation, constants) for operation in graph.moving}
    linears = {operation: one for operation, one in found.items() if one is not None}
    decisions = Decisions(linears, {}, {})
    for operation in graph.moving:
        body = inside(operation)
        if any(one.name in ("rsqrt", "sqrt", "pow") and not one.moves for one in body):
            _record(decisions, body, [], f"because it is inside {called(operation)}")
    for run in runs(graph):
        if any(operation in decisions.passed for operation in run):
            continue  # a map before it took it along
        rest, behind = _backward(run, decisions, constants)
        if any(is_norm(operation) for operation in rest):
            _forward(rest, behind, decisions, constants)
    return decisions


def _backward(
    run: list[Operation], decisions: Decisions, constants: Constants
) -> tuple[list[Operation], str]:
    """Folds what it can into the kernels that made the input; the rest, and why."""
    source, passed = moving_operand(run[0]), decisions.passed
    try:
        branches = branches_of(source, decisions.linears, passed, constants)
    except Refused as refusal:
        return run, f"its input {refusal}"
    targets = [branch.target for branch in branches]
    names = " and ".join(map(_title, targets))
    behind = f"it is not constant along all axes but the features of {names}"
    size, following = 0, branches
    for position, operation in enumerate(run, 1):
        following = extended(following, operation, constants)
        if following is None:
            break
        if operation.name in AFFINE:
            branches, size = following, position
    taken, rest = run[:size], run[size:]
    # A bias alone is taken only where there is another shift to add it to.
    is_worth_it = any(is_norm(operation) for operation in taken)
    is_changed = all(target.changed is not None for target in targets)
    if not is_worth_it and not (is_changed and taken):
        return run, behind
    try:
        new = [
            _checked(target, *target.after(total), total)
            for target, total, *_ in branches
        ]
    except Refused as refusal:
        return run, str(refusal)
    for branch, (kernel, shift) in zip(branches, new, strict=True):
        _change(branch.target, kernel, shift, [*branch.steps, *taken])
        branch.target.is_followed = True
        passed |= dict.fromkeys(branch.steps, False)
    for operation in taken:
        if not is_layout(operation):
            passed[operation] = operation is taken[-1]
    _record(decisions, taken, targets, None)
    return rest, behind


def _forward(
    run: list[Operation], behind: str, decisions: Decisions, constants: Constants
) -> None:
    """Folds a run into all kernels that take its output, or none."""
    while run[0].name not in AFFINE:
        run = run[1:]
    last = max(i for i, operation in enumerate(run) if operation.name in AFFINE)
    run = run[: last + 1]
    passed: list[Operation] = []
    new: list[tuple[Linear, Array, Array]] = []
    first = moving_operand(run[0])
    source = root_of(first)  # of which the values are, in its dtype
    try:
        total = identity(len(first.aval.shape))
        for operation in run:
            total = _through(operation, total, constants, source)
            passed.append(operation)
        _check_digits(source, total)
        value = run[-1].results[0]
        _absorb(value, total, decisions, constants, source, passed, new)
    except Refused as refusal:
        _record(decisions, run, [], f"because {behind} and {refusal}")
        return
    for target, kernel, shift in new:
        _change(target, kernel, shift, [] if target.zeros_in_input else passed)
    decisions.passed |= {op: True for op in passed if not is_layout(op)}
    _record(decisions, passed, [target for target, *_ in new], None)


def _absorb(
    value: Value,
    total: Map,
    decisions: Decisions,
    constants: Constants,
    source: Value,
    passed: list[Operation],
    new: list[tuple[Linear, Array, Array]],
) -> None:
    """Finds the new kernels of all that take a value."""
    if value.is_output:
        raise Refused("its output is returned")
    for operation in dict.fromkeys(value.uses):
        target = decisions.linears.get(operation)
        if target is None:
            moved = _through(operation, total, constants, source)
            if operation.name in AFFINE:
                passed.append(operation)
            (result,) = operation.results
            _absorb(result, moved, decisions, constants, source, passed, new)
            continue
        if not total.depends_only_on(target.input_axes):
            raise Refused(
                f"it is not constant along all axes but those that {_title(target)} "
                "sums over"
            )
        if target.zeros_in_input and np.any(total.shift != 0):
            raise Refused(f"{_title(target)} {target.zeros_in_input}")
        new.append((target, *_checked(target, *target.before(total), total)))


def _through(
    operation: Operation, total: Map, constants: Constants, source: Value
) -> Map:
    """The map of an operation's result that equals a map of its operand."""
    if is_step(operation):
        if operation.name in AFFINE:
            return total.then(map_of(operation, constants))
        if is_layout(operation):
            return total.moved(lambda x: relaid(operation, x))
        dtype = operation.results[0].aval.dtype
        if dtype.itemsize < source.aval.dtype.itemsize:
            raise Refused(f"its output is rounded to {dtype.name}")
        return total
    params = operation.params
    if operation.name in ("reduce_window_max", "reduce_window_sum"):
        window = params["window_dimensions"]
        steps = zip(
            window, params["window_strides"], params["padding"],
            params["base_dilation"], strict=True,
        )  # fmt: skip
        alone = [step == (1, 1, (0, 0), 1) for step in steps]
        if total.depends_only_on([axis for axis, one in enumerate(alone) if one]):
            if operation.name == "reduce_window_max" and np.all(total.scale > 0):
                return total
            borders = zip(params["padding"], params["base_dilation"], strict=True)
            has_zeros = any(border != ((0, 0), 1) for border in borders)
            if operation.name == "reduce_window_sum" and (
                not has_zeros or not np.any(total.shift)
            ):
                return total._replace(shift=total.shift * math.prod(window))
    if operation.name == "reduce_window_max":
        raise Refused("its scale is not positive, as max-pooling needs it")
    if operation.name == "reduce_sum":
        axes, shape = params["axes"], operation.operands[0].aval.shape
        sizes = [shape[axis] for axis in axes]
        if all(total.shape[a] == 1 for a in axes) and all(
            isinstance(size, int) for size in sizes
        ):
            moved = total.moved(lambda x: np.squeeze(x, tuple(axes)))
            return moved._replace(shift=moved.shift * math.prod(sizes))
    raise Refused(f"its output goes into {called(operation)}")


def _check_digits(value: Value, total: Map) -> None:
    """An input must not lose digits that a norm has by subtracting its mean first.

    What the function computed is rounded already, so that it has none to lose.
    """
    if value.origin is None and np.any(np.abs(total.shift) > LARGE_SHIFT):
        raise Refused("its mean is too large to be subtracted after a product")


def _checked(
    target: Linear, kernel: Array, shift: Array, total: Map
) -> tuple[Array, Array]:
    """The kernel and the shift, which must be as exact as their dtype."""
    if not total.is_finite:
        raise Refused("its statistics or parameters are not finite")
    dtype = target.dtype
    with np.errstate(all="ignore"):
        off = np.abs(kernel.astype(dtype).astype(kernel.dtype) - kernel)
    axes = tuple(a for a in range(kernel.ndim) if a not in target.feature_axes)
    largest = np.max(np.abs(kernel), axis=axes, keepdims=True, initial=0)
    smallest = float(jnp.finfo(jnp.float32).tiny)
    if not np.all(off <= float(jnp.finfo(dtype).eps) * largest + smallest):
        raise Refused(f"the new kernel is out of the range of {dtype.name}")
    return kernel, shift


def _change(
    target: Linear, kernel: Array, shift: Array, taken: Sequence[Operation]
) -> None:
    """Gives a linear operation its new kernel and shift."""
    dtypes = [one.results[0].aval.dtype for one in (target.operation, *taken)]
    wide = [dtype for dtype in dtypes if dtype.itemsize >= 4]  # narrow ones round once
    target.shift_dtype = np.result_type(target.shift_dtype, *wide)
    target.changed, target.shift = kernel, shift
    for operation in taken:
        if operation.name in ("add", "sub"):
            target.is_shifted = True
        if operation.name == "add":
            target.shift_leaves.extend(
                leaf
                for operand in operation.operands
                if not operand.moves
                for leaf in operand.leaves
            )


def _record(
    decisions: Decisions,
    run: Iterable[Operation],
    targets: list[Linear],
    reason: str | None,
) -> None:
    for operation in run:
        if is_norm(operation):
            decisions.outcomes[operation] = targets, reason


def _title(target: Linear) -> str:
    """How a message calls a linear operation: by its kernel."""
    leaves: Any = target.kernel_value.leaves
    return f"`{leaves[0] if leaves else target.operation.name}`"
