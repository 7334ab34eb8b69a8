# SPDX-License-Identifier: Apache-2.0
"""Spellings that are chosen for a compiler, each with what it saves.

Plain JAX would compute the same values. `tests/core/test_xla.py` compiles each spelling
and the plain one, and fails when a spelling no longer saves anything: then it goes.
No other file names a compiler or a device.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float


def settled(vector: Float[Array, "*c"]) -> Float[Array, "*c"]:
    """Returns the same values, which XLA:CPU neither merges nor computes again.

    Without it XLA:CPU would store the `x - pivot` of the sums for the output, and
    compute vectors again for each element of `x`. Saves a write and a read of `x` in
    the forward pass. Since jaxlib 0.10.2.
    """
    return lax.optimization_barrier(vector)


def subtract_again(
    x: Float[Array, "*n"],
    vector: Float[Array, "*c"],
    expand: Callable[[Float[Array, "*c"]], Float[Array, "..."]],
) -> Float[Array, "*n"]:
    """Returns `x - vector` for a second sum, spelled unlike that of the first.

    XLA:CPU fuses a subtraction into a reduction only where that reduction is its one
    user, and merges equal subtractions first. Two spellings save a write and a read of
    `x` in the forward pass, and again in the backward pass. Since jaxlib 0.10.2.
    """
    return x + expand(-vector)


def broadcast_once(row: Float[Array, "*c"]) -> Float[Array, "*c"]:
    """Returns the same row of a sharded batch, which the partitioner broadcasts once.

    Without the barrier XLA broadcasts it again for every use under `jit`: one
    collective a layer more. Since jaxlib 0.10.2.
    """
    return lax.optimization_barrier(row)


def needs_no_pivot(dtype: DTypeLike) -> bool:
    """Whether the sums go without a pivot: in bfloat16.

    It resolves no more than mean / sd = 256. A row taken from `x` would have to be
    waited for, which keeps XLA:TPU from fusing the sums into the convolution that makes
    `x`. Since libtpu 0.0.52.
    """
    return dtype == jnp.bfloat16


def keep_output(y: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns the same output, which XLA:GPU stores instead of computing it again.

    It would rebuild `y` from all its inputs wherever it is used: 4 % of the bytes of a
    ResNet-50 step. XLA:TPU fuses better without the barrier. Since jaxlib 0.10.2.
    """

    def same(y: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return y

    return lax.platform_dependent(y, cuda=settled, default=same)


def select_narrow(
    active: Bool[Array, "*n"], tangent: Float[Array, "*n"], dtype: DTypeLike
) -> Float[Array, "*n"]:
    """Returns the tangent of a ReLU, selected in the output's dtype.

    Its transpose masks the cotangent before it is widened: half the bytes in bfloat16,
    and on TPU one stored tensor instead of two. Since libtpu 0.0.52.
    """
    return jnp.where(active, tangent.astype(dtype), jnp.zeros((), dtype))
