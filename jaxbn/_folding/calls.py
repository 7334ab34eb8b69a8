# SPDX-License-Identifier: Apache-2.0
"""Calls in a jaxpr: which are opened, and which stay as exporters know them."""

from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

# Calls whose body may stand in their place, and the parameter that holds it.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
}
# These have a derivative of their own, which is lost where the body stands in their
# place: only those that take params are opened, so that `jax.nn.relu` stays one.
WITH_DERIVATIVE = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
# Pointwise functions of `jax.nn` that are called again instead of opened, so that an
# exporter that has an operation of its own for one, such as ONNX's `Relu`, sees it.
ACTIVATIONS = {
    "celu", "elu", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu",
    "log_sigmoid", "mish", "relu", "relu6", "selu", "silu", "soft_sign", "softplus",
    "squareplus",
}  # fmt: skip


def called_name(equation: JaxprEqn) -> str:
    """The name of the function that an equation calls, or that of its primitive."""
    name = equation.primitive.name
    if name in WITH_DERIVATIVE:
        body = equation.params[WITH_DERIVATIVE[name]]
        return body.jaxpr.debug_info.func_name
    return equation.params["name"] if name in ("jit", "pjit") else name


def body_of(equation: JaxprEqn, takes_params: bool) -> ClosedJaxpr | None:
    """The jaxpr that may stand in the place of a call."""
    name = equation.primitive.name
    key = CALLS.get(name)
    if takes_params:
        key = WITH_DERIVATIVE.get(name, key)
    if key is None:
        return None
    body = equation.params[key]
    return ClosedJaxpr(body, ()) if isinstance(body, Jaxpr) else body


def activation_of(equation: JaxprEqn, around: Jaxpr) -> str | None:
    """The activation that an equation is a call of, with its default arguments."""
    name = called_name(equation)
    if name not in ACTIVATIONS or not hasattr(jax.nn, name):
        return None
    x: Any = equation.invars[0].aval
    theirs = jax.make_jaxpr(getattr(jax.nn, name))(
        jax.ShapeDtypeStruct(x.shape, x.dtype)
    )
    # Printed, variables are named in order.
    same = str(theirs.jaxpr) == str(equation_alone(equation, around))
    return name if same else None


def is_matmul(equation: JaxprEqn) -> bool:
    """Whether it is `jnp.matmul` with a matrix, as exporters know it.

    Of `dot_general` jax2onnx makes a `Gemm` with a zero for a bias, to which ONNX
    Runtime adds none; of a `MatMul` and an addition it makes one `Gemm`.
    """
    if equation.primitive.name != "dot_general":
        return False
    avals: list[Any] = [v.aval for v in (*equation.invars, *equation.outvars)]
    left, right, out = avals
    last = len(left.shape) - 1
    return (
        last >= 1
        and len(right.shape) == 2
        and equation.params["dimension_numbers"] == (((last,), (0,)), ((), ()))
        and equation.params.get("out_sharding") is None
        and left.dtype == right.dtype == out.dtype
    )


def equation_alone(equation: JaxprEqn, around: Jaxpr) -> Jaxpr:
    """The jaxpr of one equation, as a function of its operands in order."""
    given = [var for var in equation.invars if not isinstance(var, Literal)]
    return around.replace(
        constvars=[],
        invars=given,
        outvars=equation.outvars,
        eqns=[equation],
        effects=equation.effects,
        debug_info=around.debug_info._replace(
            arg_names=("",) * len(given), result_paths=("",) * len(equation.outvars)
        ),
    )
