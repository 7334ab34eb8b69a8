# SPDX-License-Identifier: Apache-2.0
"""Spellings that are chosen for a compiler, each with what it saves.

Plain JAX would compute the same values. `tests/core/test_xla.py` compiles each spelling
and the plain one, and fails when a spelling no longer saves anything: then it goes.
No other file names a compiler or a device.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Inexact

Result = TypeVar("Result")


def subtract_again(
    x: Float[Array, "*n"],
    vector: Float[Array, "*c"],
    expand: Callable[[Float[Array, "*c"]], Float[Array, "..."]],
) -> Float[Array, "*n"]:
    """Returns `x - vector` for a second sum, spelled unlike that of the first.

    XLA:CPU fuses a subtraction into a reduction only where that reduction is its one
    user, and merges equal subtractions first. Two spellings save a write and a read of
    `x` in the backward pass. Since jaxlib 0.10.2.
    """
    return x + expand(-vector)


def where_double_is_fast(
    in_double: Callable[..., Result], in_single: Callable[..., Result], *arguments: Any
) -> Result:
    """Calls the first function on an NVIDIA GPU, the second elsewhere.

    There the sums of a norm are expected to wait for memory, so that double precision
    should cost nothing, which is not measured; a loop that may not run waits for the
    host. XLA:CPU does not vectorize double precision, and a TPU has none. Since jaxlib
    0.10.2.
    """
    return lax.platform_dependent(*arguments, cuda=in_double, default=in_single)


def spread_together(
    first: Float[Array, "*c"],
    second: Float[Array, "*c"],
    spread: Callable[[Inexact[Array, "*c"]], Inexact[Array, "*n"]],
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """Spreads two vectors over `x`, so that XLA:GPU transposes them to one sum.

    As the two parts of complex numbers. It will not fuse the select of a ReLU into two
    sums, whose cost it would count twice, and would store the masked cotangent: 8 % of
    the bytes of a ResNet-50 step. On TPU two sums are cheaper. Since jaxlib 0.10.2.
    """

    def of_parts(
        first: Float[Array, "*c"], second: Float[Array, "*c"]
    ) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        both = spread(lax.complex(first, second))
        return lax.real(both), lax.imag(both)

    def of_each(
        first: Float[Array, "*c"], second: Float[Array, "*c"]
    ) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        return spread(first), spread(second)

    return lax.platform_dependent(first, second, cuda=of_parts, default=of_each)


def keep_output(y: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns the same output, which XLA:GPU stores instead of computing it again.

    It would rebuild `y` from all its inputs wherever it is used: 4 % of the bytes of a
    ResNet-50 step. XLA:TPU fuses better without the barrier. Since jaxlib 0.10.2.
    """

    def same(y: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return y

    return lax.platform_dependent(y, cuda=lax.optimization_barrier, default=same)


def select_narrow(
    active: Bool[Array, "*n"], tangent: Float[Array, "*n"], dtype: DTypeLike
) -> Float[Array, "*n"]:
    """Returns the tangent of a ReLU, selected in the output's dtype.

    Its transpose masks the cotangent before it is widened: half the bytes in bfloat16,
    and on TPU one stored tensor instead of two. Since libtpu 0.0.52.
    """
    return jnp.where(active, tangent.astype(dtype), jnp.zeros((), dtype))
