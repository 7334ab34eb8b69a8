# SPDX-License-Identifier: Apache-2.0
"""A traced function as a graph: who uses a value, and what depends on params alone."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxprs_in_params

from jaxbn._folding.calls import (
    activation_of,
    body_of,
    called_name,
    equation_alone,
    is_matmul,
)

VIEWS = {
    "reshape",
    "broadcast_in_dim",
    "squeeze",
    "expand_dims",
    "transpose",
    "convert_element_type",
    "copy",
}
"""What lays out or stores a value otherwise, and is not worth a param of its own."""


@dataclasses.dataclass(eq=False, repr=False)
class Value:
    """An array of the function; compared by identity."""

    aval: Any
    origin: "Operation | None" = None
    constant: Any = None  # a literal, or an array that the function closes over
    path: str | None = None  # of a leaf of the params
    moves: bool = False  # depends on the inputs
    leaves: tuple[str, ...] = ()  # the params it depends on
    closes_over: bool = False  # depends on an array that the function closes over
    is_known: bool = True  # does not depend on a symbolic dimension
    uses: list["Operation"] = dataclasses.field(default_factory=list)
    is_output: bool = False

    @property
    def is_parameter(self) -> bool:
        """Whether it is fixed and made of arrays, those of the params or others."""
        return not self.moves and bool(self.leaves or self.closes_over)


@dataclasses.dataclass(eq=False, repr=False)
class Operation:
    """An equation of the jaxpr, between values."""

    equation: JaxprEqn
    around: Jaxpr
    outer_scope: str  # of the calls that it was in
    operands: tuple[Value, ...]
    results: tuple[Value, ...] = ()
    passes: int | None = None  # an operand that may stand for the result
    activation: str | None = None  # the function of `jax.nn` that it is a call of

    @property
    def name(self) -> str:
        """That of the primitive."""
        return self.equation.primitive.name

    @property
    def title(self) -> str:
        """How messages call it: by the function's name where it is a call."""
        return called_name(self.equation)

    @property
    def params(self) -> dict[str, Any]:
        """Those of the primitive."""
        return self.equation.params

    @property
    def moving_index(self) -> int | None:
        """Which operand alone moves, or may stand for the result; None if several."""
        if self.passes is not None:
            return self.passes
        moving = [i for i, operand in enumerate(self.operands) if operand.moves]
        return moving[0] if len(moving) == 1 else None

    @property
    def moves(self) -> bool:
        """Whether it must be run for each input."""
        effects = bool(self.equation.effects)
        return effects or any(result.moves for result in self.results)

    def run(self, operands: Sequence[Any]) -> list[Any]:
        """Applies the primitive, in the scope that it was traced in."""
        equation = self.equation
        pairs = zip(equation.invars, operands, strict=True)
        given = [x for var, x in pairs if not isinstance(var, Literal)]
        with jax.named_scope(self.outer_scope):
            if self.activation is not None:
                return [getattr(jax.nn, self.activation)(*given)]
            if is_matmul(equation):
                return [jnp.matmul(*given, precision=self.params["precision"])]
            return eval_jaxpr(equation_alone(equation, self.around), (), *given)

    @property
    def scope(self) -> str:
        """The scope of the framework's module in which it was traced, if any."""
        return _join(self.outer_scope, self.equation)


class Graph(NamedTuple):
    """The operations that the outputs need, in order."""

    operations: list[Operation]
    leaves: dict[str, Value]
    inputs: list[Value]
    outputs: list[Value]
    out_tree: Any

    @property
    def moving(self) -> list[Operation]:
        """The operations that are run for each input."""
        return [operation for operation in self.operations if operation.moves]


def trace(
    function: Callable[..., Any],
    params: Any,
    paths: Sequence[str],
    inputs: Sequence[Any],
) -> Graph:
    """Traces `function(params, *inputs)`, for arrays or their shapes."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(params, *inputs)
    given = [Value(var.aval) for var in closed.jaxpr.invars]
    leaves = dict(zip(paths, given, strict=False))
    for path, value in leaves.items():
        value.path, value.leaves = path, (path,)
    for value in given[len(leaves) :]:
        value.moves = True
    operations: list[Operation] = []
    outputs = _inline(closed, given, operations)
    live = _live(operations, outputs)
    for operation in live:
        for operand in operation.operands:
            operand.uses.append(operation)
    for value in outputs:
        value.is_output = True
    tree = jax.tree.structure(shapes)
    return Graph(live, leaves, given[len(leaves) :], outputs, tree)


def _inline(
    closed: ClosedJaxpr,
    operands: Sequence[Value],
    operations: list[Operation],
    scope: str = "",
) -> list[Value]:
    """Appends the operations of a jaxpr, and those of the calls in it."""
    env: dict[Any, Value] = dict(zip(closed.jaxpr.invars, operands, strict=True))
    for var, constant in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        env[var] = (
            constant
            if isinstance(constant, Value)
            else Value(var.aval, constant=constant, closes_over=True)
        )

    def read(atom: Any) -> Value:
        if isinstance(atom, Literal):
            return Value(atom.aval, constant=atom.val)
        return env[atom]

    for equation in closed.jaxpr.eqns:
        values = tuple(read(atom) for atom in equation.invars)
        takes_params = any(value.is_parameter for value in values)
        activation = None
        if not takes_params:
            activation = activation_of(equation, closed.jaxpr)
        body = None if activation else body_of(equation, takes_params)
        if body is None:
            operation = Operation(equation, closed.jaxpr, scope, values)
            operation.activation = activation
            operation.results = tuple(
                _result(var.aval, operation) for var in equation.outvars
            )
            operations.append(operation)
            results: Sequence[Value] = operation.results
        else:
            results = _inline(body, values, operations, _join(scope, equation))
        env.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def inside(operation: Operation) -> list[Operation]:
    """The operations in the bodies of a loop, a branch or another transform."""
    found: list[Operation] = []
    for body in jaxprs_in_params(operation.params):
        inner: Jaxpr = getattr(body, "jaxpr", body)  # of either kind by JAX's version
        closed = ClosedJaxpr(inner, (None,) * len(inner.constvars))
        # Loops and branches take what is theirs, such as an index, first.
        taken = operation.operands[len(operation.operands) - len(closed.in_avals) :]
        if len(taken) == len(closed.in_avals):
            values = [Value(v.aval, moves=v.moves, leaves=v.leaves) for v in taken]
            _inline(closed, values, found)
    return found + [deeper for outer in found for deeper in inside(outer)]


def _join(scope: str, equation: JaxprEqn) -> str:
    own = str(equation.source_info.name_stack)
    return "/".join(part for part in (scope, own) if part)


def _result(aval: Any, operation: Operation) -> Value:
    operands = operation.operands
    leaves = dict.fromkeys(leaf for operand in operands for leaf in operand.leaves)
    return Value(
        aval,
        origin=operation,
        moves=any(v.moves for v in operands) or bool(operation.equation.effects),
        leaves=tuple(leaves),
        closes_over=any(v.closes_over for v in operands),
        is_known=all(v.is_known for v in operands) and operation.name != "dim_as_value",
    )


def _live(operations: list[Operation], outputs: Sequence[Value]) -> list[Operation]:
    """Those that an output or an effect needs."""
    needed = set(outputs)
    live: list[Operation] = []
    for operation in reversed(operations):
        if operation.equation.effects or not needed.isdisjoint(operation.results):
            needed.update(operation.operands)
            live.append(operation)
    return live[::-1]


def root_of(value: Value) -> Value:
    """The value that a fixed value is a view of."""
    while value.origin is not None and value.origin.name in VIEWS:
        value = value.origin.operands[0]
    return value


class Evaluation:
    """The values of a graph for given leaves, each computed when it is first read."""

    def __init__(self, leaves: Mapping[str, Any]) -> None:
        """Starts from the leaves."""
        self.leaves = leaves
        self.known: dict[Value, Any] = {}

    def __getitem__(self, value: Value) -> Any:
        """The array."""
        if value in self.known:
            return self.known[value]
        if value.path is not None:
            return self.leaves[value.path]
        if value.origin is None:
            return value.constant
        self.run(value.origin)
        return self.known[value]

    def run(self, operation: Operation) -> None:
        """Computes the results of an operation."""
        results = operation.run([self[operand] for operand in operation.operands])
        self.known.update(zip(operation.results, results, strict=True))
