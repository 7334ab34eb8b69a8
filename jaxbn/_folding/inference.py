# SPDX-License-Identifier: Apache-2.0
"""What a graph shows of its mode: norms in training, masks that apply twice."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, jaxprs_in_params

from jaxbn._folding.calls import CALLS, WITH_DERIVATIVE
from jaxbn._folding.graph import VIEWS, Graph, Operation, Value

POINTWISE = {
    "abs", "add", "add_any", "convert_element_type", "copy", "div", "erf", "exp", "gt",
    "integer_pow", "log", "log1p", "logistic", "max", "min", "mul", "neg", "ne", "pow",
    "rsqrt", "select_n", "sign", "sqrt", "square", "sub", "tanh", "is_finite", "eq",
    "ge", "le", "lt", "clamp", "expm1", "and", "or", "not", "sin", "cos",
}  # fmt: skip
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "dot_general", "psum"}


def norm_in_training(graph: Graph) -> tuple[str, str] | None:
    """The place and the operation of a scale by statistics of the batch.

    That is a product with a value that a reciprocal or a root made of sums over the
    first axis of something; norms of single examples do not sum over it.
    """
    for operation in graph.moving:
        moving = [operand for operand in operation.operands if operand.moves]
        if operation.name in ("mul", "div") and len(moving) == 2:
            for value in moving:
                root = _root_behind(value)
                if root is not None and _sums_over_examples(root):
                    return operation.scope, operation.name
    return None


def _root_behind(value: Value) -> Operation | None:
    """The root or the power that a value comes from, by pointwise operations."""
    roots = (op for op in _behind([value]) if op.name in ("sqrt", "rsqrt", "pow"))
    return next(roots, None)


def _sums_over_examples(root: Operation) -> bool:
    behind = _behind(root.operands, "slice")
    return any(_reduces_first(operation.equation) for operation in behind)


def _behind(values: Iterable[Value], *through: str) -> Iterator[Operation]:
    """What values come from, through views, pointwise operations and those named."""
    seen = {*values}
    stack = [*seen]
    while stack:
        operation = stack.pop().origin
        if operation is None or not operation.moves:
            continue
        yield operation
        named = operation.name in VIEWS or operation.name in through
        if named or _is_pointwise(operation.equation):
            stack += [v for v in operation.operands if v not in seen]
            seen.update(operation.operands)


def _reduces_first(equation: JaxprEqn) -> bool:
    """Whether it sums, itself or within, over the first axis and not over all."""
    if equation.primitive.name in REDUCTIONS:
        operand: Any = equation.invars[0].aval
        rank = len(operand.shape)
        axes = equation.params.get("axes", ())
        if equation.primitive.name == "dot_general":
            axes = equation.params["dimension_numbers"][0][0]
        return 0 in axes and 1 < rank > len(axes)
    bodies = [
        body.jaxpr if isinstance(body, ClosedJaxpr) else body
        for body in jaxprs_in_params(equation.params)
    ]
    return any(_reduces_first(inner) for body in bodies for inner in body.eqns)


def mark_repeated_masks(graph: Graph) -> None:
    """Marks selections of zero that a later selection by the same mask repeats.

    Between them there are only pointwise operations, so that the first one decides
    nothing that the second one does not.
    """
    for operation in graph.moving:
        case = _selected(operation)
        if case is not None and _is_masked_again(
            operation.results[0], operation.operands[0]
        ):
            operation.passes = case


def _selected(operation: Operation) -> int | None:
    """Which operand a selection keeps, if the other is fixed."""
    if operation.name != "select_n" or len(operation.operands) != 3:
        return None
    kept = [i for i in (1, 2) if operation.operands[i].moves]
    return kept[0] if len(kept) == 1 else None


def _is_masked_again(value: Value, mask: Value) -> bool:
    if value.is_output:
        return False
    for operation in value.uses:
        case = _selected(operation)
        if (
            case is not None
            and operation.operands[case] is value
            and _same(operation.operands[0], mask)
        ):
            continue
        if not _is_pointwise(operation.equation):
            return False
        if not all(_is_masked_again(result, mask) for result in operation.results):
            return False
    return True


def _is_pointwise(equation: JaxprEqn) -> bool:
    name = equation.primitive.name
    results: list[Any] = [var.aval for var in equation.outvars]
    shapes = {result.shape for result in results}
    if name in ("custom_jvp_call", "jit", "pjit"):
        body: ClosedJaxpr = equation.params[(CALLS | WITH_DERIVATIVE)[name]]
        return all(_is_pointwise(inner) for inner in body.eqns)
    return name in POINTWISE and len(shapes) == 1


def _same(a: Value, b: Value) -> bool:
    """Whether two values are computed in the same way from the same values."""
    if a is b:
        return True
    if a.origin is None or b.origin is None:
        numbers = np.ndim(a.constant) == np.ndim(b.constant) == 0
        known = a.constant is not None and b.constant is not None
        return bool(
            a.origin is b.origin and known and numbers and a.constant == b.constant
        )
    return (
        a.origin.name == b.origin.name
        and str(a.origin.params) == str(b.origin.params)
        and all(map(_same, a.origin.operands, b.origin.operands))
    )
