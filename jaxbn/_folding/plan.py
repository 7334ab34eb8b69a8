# SPDX-License-Identifier: Apache-2.0
"""The folded function: its params, and how each operation is run with them.

Operations are known by their position among those that depend on the inputs, so that
the plan holds for a new trace, of a batch of any size or of a symbolic one.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbn._folding.graph import VIEWS, Evaluation, Graph, Operation, Value, root_of
from jaxbn._folding.linear import Linear
from jaxbn._folding.maps import Constants
from jaxbn._folding.planning import Decisions, FoldedNorm


class Shift(NamedTuple):
    """What is added to the output of a linear operation."""

    name: str
    others: tuple[int, ...]  # the axes of the output on which it does not depend
    rounds: bool  # to the dtype of the output at once, and not after what follows


class Plan(NamedTuple):
    """What is done otherwise than traced, by the position of the operation."""

    signature: tuple[Any, ...]
    kernels: dict[int, tuple[int, str]]  # which operand, and its new param
    shifts: dict[int, Shift]
    passed: dict[int, tuple[int, bool]]  # for which operand; whether it is rounded
    stored: dict[tuple[int, int], str]  # fixed operands that are params now
    needless: set[int]  # operations of which only what is left out made use


def signature(graph: Graph) -> tuple[Any, ...]:
    """What must be the same in every trace."""
    operations = tuple(
        (operation.name, tuple(operand.moves for operand in operation.operands))
        for operation in graph.moving
    )
    return (*operations, tuple(value.moves for value in graph.outputs))


def make_plan(
    graph: Graph, decisions: Decisions, constants: Constants
) -> tuple[Plan, dict[str, Any], tuple[FoldedNorm, ...]]:
    """The plan, the params that it needs, and the report."""
    position = {operation: i for i, operation in enumerate(graph.moving)}
    plan = Plan(signature(graph), {}, {}, {}, {}, set())
    for operation, rounds in decisions.passed.items():
        plan.passed[position[operation]] = cast(int, operation.moving_index), rounds
    changed = [one for one in decisions.linears.values() if one.changed is not None]
    replaced = {(position[one.operation], one.kernel_index) for one in changed}
    plan.needless.update(_needless(graph, plan))
    roots: dict[Value, tuple[int, int]] = {}
    for place, value in _fixed_operands(graph):
        left_out = place[0] in plan.passed or place[0] in plan.needless
        if not left_out and place not in replaced:
            roots.setdefault(root_of(value), place)

    params = {
        root.path: jnp.asarray(constants.traced[root])
        for root in roots
        if root.path is not None
    }
    kernels: dict[Linear, str] = {}
    for one in changed:
        leaf = _largest(one.kernel_value, graph)
        name = kernels[one] = _unused(leaf, params)
        params[name] = jnp.asarray(one.kernel.astype(one.dtype))
        plan.kernels[position[one.operation]] = one.kernel_index, name
        if one.is_shifted:
            rank, kept = one.shift.ndim, one.output_axes
            others = tuple(axis for axis in range(rank) if axis not in kept)
            shape = one.operation.results[0].aval.shape
            full = [n if axis in kept else 1 for axis, n in enumerate(shape)]
            shift = np.squeeze(np.broadcast_to(one.shift, full), others)
            bias = _unused(_bias_of(leaf, one.shift_leaves), params)
            params[bias] = jnp.asarray(shift.astype(one.shift_dtype))
            entry = Shift(bias, others, rounds=not one.is_followed)
            plan.shifts[position[one.operation]] = entry
    for root, place in roots.items():
        if root.origin is not None and root.leaves:
            name = plan.stored[place] = _unused(_largest(root, graph), params)
            value = constants.full(root).astype(root.aval.dtype)
            params[name] = jnp.asarray(value)
    return plan, params, tuple(_report(decisions, kernels))


def evaluate(
    graph: Graph, plan: Plan, params: Mapping[str, Any], inputs: Sequence[Any]
) -> list[Any]:
    """The outputs of the folded function, in order."""
    values = Evaluation(params)
    values.known.update(zip(graph.inputs, inputs, strict=True))
    fixed = dict(_fixed_operands(graph))
    for place, name in plan.stored.items():
        values.known[root_of(fixed[place])] = params[name]
    for number, operation in enumerate(graph.moving):
        if number in plan.needless:
            continue
        if number in plan.passed:
            index, rounds = plan.passed[number]
            y = values[operation.operands[index]]
            if rounds:
                y = lax.convert_element_type(y, operation.results[0].aval.dtype)
        elif number in plan.kernels:
            index, name = plan.kernels[number]
            operands = [params[name], params[name]]
            operands[1 - index] = values[operation.operands[1 - index]]
            (y,) = operation.run(operands)
            if number in plan.shifts:
                y = _shifted(y, plan.shifts[number], params, operation)
        elif operation.name == "concatenate":
            parts = [values[operand] for operand in operation.operands]
            # A part whose shift is added here is not rounded before the others' are.
            widest = max((part.dtype for part in parts), key=lambda d: d.itemsize)
            (y,) = operation.run([part.astype(widest) for part in parts])
        elif (convolution := _biased(operation)) is not None:
            left, right = operation.operands
            y = _sum(values[left], values[right], convolution)
        else:
            values.run(operation)
            continue
        values.known[operation.results[0]] = y
    return [values[value] for value in graph.outputs]


def _needless(graph: Graph, plan: Plan) -> Iterator[int]:
    """The operations that nothing needs any more, from the last one to the first."""
    needed = set(graph.outputs)
    for number, operation in reversed([*enumerate(graph.moving)]):
        if operation.equation.effects or not needed.isdisjoint(operation.results):
            index, _ = plan.passed.get(number, (None, False))
            operands = operation.operands
            needed.update(operands if index is None else [operands[index]])
        else:
            yield number


def _shifted(
    y: Any, shift: Shift, params: Mapping[str, Any], operation: Operation
) -> Any:
    bias = params[shift.name]
    z = _sum(y.astype(bias.dtype), lax.expand_dims(bias, shift.others), operation)
    return z.astype(y.dtype) if shift.rounds else z


def _biased(operation: Operation) -> Operation | None:
    """The convolution to whose output alone an addition adds a fixed value."""
    if operation.name != "add" or operation.moving_index is None:
        return None
    origin = operation.operands[operation.moving_index].origin
    is_one = origin is not None and origin.name == "conv_general_dilated"
    return origin if is_one else None


def _sum(y: Any, bias: Any, operation: Operation) -> Any:
    """An output and its bias, both as if their features had been on axis 1.

    There ONNX keeps those of a convolution, and there an exporter can make a bias of
    the sum. XLA removes the transpositions, each of which is followed by its inverse.
    """
    if operation.name != "conv_general_dilated":
        return y + bias
    order = operation.params["dimension_numbers"].out_spec
    if (*order,) == (*range(len(order)),):
        return y + bias
    back = np.argsort(order)
    bias = lax.transpose(lax.transpose(bias, order), back)
    return lax.transpose(lax.transpose(y + bias, order), back)


def _fixed_operands(graph: Graph) -> Iterator[tuple[tuple[int, int], Value]]:
    """What depends on params alone and is used with the inputs, or returned."""
    for number, operation in enumerate(graph.moving):
        for index, operand in enumerate(operation.operands):
            if operand.leaves and not operand.moves:
                yield (number, index), operand
    for index, value in enumerate(graph.outputs):
        if value.leaves and not value.moves:
            yield (-1, index), value


def _largest(value: Value, graph: Graph) -> str:
    """The path of the largest leaf that a value is made of."""
    if not value.leaves:  # the function closes over it
        return "kernel"
    sizes = {path: math.prod(graph.leaves[path].aval.shape) for path in value.leaves}
    return max(reversed(sizes), key=sizes.__getitem__)


def _bias_of(kernel: str, shifts: Sequence[str]) -> str:
    """The name of a kernel's shift: that of the layer's own bias, if it has one."""
    parent, slash, name = kernel.rpartition("/")
    if name.isdigit():  # a place in a list, next to which nothing can be named
        return f"{kernel}/bias"
    own = (leaf for leaf in shifts if leaf.rpartition("/")[0] == parent)
    return next(own, f"{parent}{slash}bias")


def _unused(name: str, params: Mapping[str, Any]) -> str:
    """The name, with a number where another param has it."""
    number, unique = 1, name
    while unique in params:
        number += 1
        unique = f"{name}_{number}"
    return unique


def _report(
    decisions: Decisions, kernels: Mapping[Linear, str]
) -> Iterator[FoldedNorm]:
    """An entry for each norm; scales that follow each other are one."""
    groups: dict[Operation, list[Operation]] = {}
    for operation in decisions.outcomes:
        before = _norm_before(operation, decisions)
        groups[operation] = groups[before] if before is not None else []
        groups[operation].append(operation)
    for operation, group in groups.items():
        if operation is group[0]:
            leaves = dict.fromkeys(
                leaf for one in group for operand in one.operands if not operand.moves
                for leaf in operand.leaves
            )  # fmt: skip
            targets, reason = decisions.outcomes[operation]
            names = tuple(kernels[target] for target in targets)
            yield FoldedNorm(_name_of_norm(tuple(leaves)), names, reason)


def _norm_before(operation: Operation, decisions: Decisions) -> Operation | None:
    """The scale that directly precedes this one."""
    origin = operation.operands[cast(int, operation.moving_index)].origin
    while origin is not None and origin.name in VIEWS:
        origin = origin.operands[0].origin
    return origin if origin in decisions.outcomes else None


def _name_of_norm(leaves: Sequence[str]) -> str:
    """What the paths of its leaves have in common, or all of them."""
    first, *others = (path.split("/")[:-1] for path in leaves)
    common = [part for part in first if all(part in other for other in others)]
    if all(part.isdigit() for part in common):
        return ", ".join(leaves)
    return "/".join(common)
