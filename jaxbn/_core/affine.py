# SPDX-License-Identifier: Apache-2.0
"""The affine map and the activation: what happens to `x` once statistics are given."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact

from jaxbn._core.layout import Batch, Layout, Weights, zero_where_left_out

Activation = Callable[[Array], Array]


class Static(NamedTuple):
    """What is known when a call is traced; hashable."""

    layout: Layout
    epsilon: float
    activation: Activation | None
    dtype: np.dtype  # of the output


class Params(NamedTuple):
    """The learned vectors, None where there is none."""

    scale: Inexact[Array, "*c"] | None
    bias: Inexact[Array, "*c"] | None


def reciprocal_deviation(var: Float[Array, "*c"], epsilon: float) -> Float[Array, "*c"]:
    r"""$\rho = (v + \epsilon)^{-1/2}$, and 0 where that is not finite."""
    shifted = var + epsilon
    positive = jnp.where(shifted > 0, shifted, 1)  # epsilon may be 0
    return jnp.where(shifted > 0, lax.rsqrt(positive), 0)


def slope_of(
    rho: Inexact[Array, "*c"], scale: Inexact[Array, "*c"] | None
) -> Inexact[Array, "*c"]:
    r"""$\gamma\rho$, by which the centered input is multiplied."""
    return rho if scale is None else rho * scale


def center(
    x: Inexact[Array, "*n"],
    mean: Inexact[Array, "*c"],
    shift: Inexact[Array, "*c"] | None,
    layout: Layout,
) -> Inexact[Array, "*n"]:
    """`x` less the mean, or less an anchor and the shift from it to the mean.

    In the dtype of the mean, and subtracted before anything else: folding a large mean
    into the bias would lose digits.
    """
    x = x.astype(mean.dtype) - layout.expand(mean)
    return x if shift is None else x - layout.expand(shift)


def affine(
    centered: Inexact[Array, "*n"],
    slope: Inexact[Array, "*c"],
    bias: Inexact[Array, "*c"] | None,
    residual: Inexact[Array, "*n"] | None,
    layout: Layout,
) -> Inexact[Array, "*n"]:
    """`slope * centered + bias + residual`: the value before the activation."""
    z = layout.expand(slope) * centered
    if bias is not None:
        z = z + layout.expand(bias)
    if residual is not None:
        z = z + residual.astype(z.dtype)
    return z


def activate(
    z: Inexact[Array, "*n"],
    activation: Activation | None,
    weights: Weights,
    dtype: DTypeLike,
) -> Inexact[Array, "*n"]:
    """Applies the activation, rounds to `dtype`, and zeroes what does not count."""
    y = z if activation is None else activation(z)
    return zero_where_left_out(y.astype(dtype), weights)


@functools.partial(jax.jit, static_argnames="static")
def normalize_by_given(
    static: Static,
    batch: Batch,
    params: Params,
    mean: Inexact[Array, "*c"],
    var: Float[Array, "*c"],
) -> Inexact[Array, "*n"]:
    """Normalizes a batch by statistics that do not depend on it: inference."""
    layout, epsilon, activation, dtype = static
    x, weights, residual = batch
    rho = reciprocal_deviation(var, epsilon).astype(mean.dtype)
    centered = zero_where_left_out(center(x, mean, None, layout), weights)
    if residual is not None:
        residual = zero_where_left_out(residual, weights)
    slope = slope_of(rho, params.scale)
    z = affine(centered, slope, params.bias, residual, layout)
    return activate(z, activation, weights, dtype)
