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

from jaxbn._core.layout import Batch, Layout, zero_where_left_out

Activation = Callable[[Array], Array]

OF_JAX: tuple[Activation, ...] = (
    jax.nn.celu,
    jax.nn.elu,
    jax.nn.gelu,
    jax.nn.hard_sigmoid,
    jax.nn.hard_swish,
    jax.nn.hard_tanh,
    jax.nn.leaky_relu,
    jax.nn.log_sigmoid,
    jax.nn.mish,
    jax.nn.relu,
    jax.nn.relu6,
    jax.nn.selu,
    jax.nn.sigmoid,
    jax.nn.silu,
    jax.nn.soft_sign,
    jax.nn.softplus,
    jax.nn.sparse_plus,
    jax.nn.sparse_sigmoid,
    jax.nn.squareplus,
    jax.nn.tanh,
    jnp.tanh,
)
"""Activations that own no value, and see none but their argument.

Only these are part of the derivative by hand, which computes `z` again instead of
keeping it. Any other function may own or close over values that have a gradient, or
that are others at the next call: it is applied to the output, as users would do.
"""


def is_of_jax(activation: Activation | None) -> bool:
    """Whether an activation can be part of the derivative by hand."""
    return any(activation is known for known in OF_JAX)


class Static(NamedTuple):
    """What is known when a call is traced; hashable."""

    layout: Layout
    epsilon: float  # 0 where `Params` has one that is traced
    activation: Activation | None  # one `OF_JAX`
    dtype: np.dtype  # of the output


class Params(NamedTuple):
    """What the output depends on besides the batch, None where there is none."""

    scale: Inexact[Array, "*c"] | None
    bias: Inexact[Array, "*c"] | None
    epsilon: Float[Array, ""] | None = None

    def split(self, layout: Layout, batch: Batch) -> tuple["Params", Batch]:
        """Moves what each example has of its own to what is sharded with the batch."""
        pairs = (("scale", self.scale), ("bias", self.bias))
        own = {name: value for name, value in pairs if layout.has_examples(value)}
        return self._replace(**dict.fromkeys(own)), batch._replace(**own)

    def joined(self, batch: Batch) -> tuple["Params", Batch]:
        """The inverse."""
        scale = self.scale if batch.scale is None else batch.scale
        bias = self.bias if batch.bias is None else batch.bias
        return Params(scale, bias, self.epsilon), batch._replace(scale=None, bias=None)


def epsilon_of(static: Static, params: Params) -> float | Float[Array, ""]:
    """What is added to the variance."""
    return static.epsilon if params.epsilon is None else params.epsilon


def reciprocal_deviation(
    var: Float[Array, "*c"], epsilon: float | Float[Array, ""]
) -> Float[Array, "*c"]:
    r"""$\rho = (v + \epsilon)^{-1/2}$, and 0 where that is not finite."""
    shifted = var + epsilon
    positive = jnp.where(shifted > 0, shifted, 1)  # epsilon may be 0
    return jnp.where(shifted > 0, lax.rsqrt(positive), 0)


def slope_of(
    rho: Inexact[Array, "*#c"], scale: Inexact[Array, "*#c"] | None
) -> Inexact[Array, "*#c"]:
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
    slope: Inexact[Array, "*#c"],
    bias: Inexact[Array, "*#c"] | None,
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
    batch: Batch,
    layout: Layout,
    dtype: DTypeLike,
) -> Inexact[Array, "*n"]:
    """Applies the activation, rounds to `dtype`, and zeroes what does not count."""
    if activation is not None:
        z = activation(z)
    y = zero_where_left_out(z.astype(dtype), batch.weights)
    return layout.zero_in_no_segment(y, batch.segments)


@functools.partial(jax.jit, static_argnames="static")
def normalize_by_given(
    static: Static,
    batch: Batch,
    params: Params,
    mean: Inexact[Array, "*c"],
    var: Float[Array, "*c"],
) -> Inexact[Array, "*n"]:
    """Normalizes a batch by statistics that do not depend on it: inference."""
    layout, _, activation, dtype = static
    batch = batch.sharded_alike()
    x, weights, residual, segments = batch[:4]
    rho = reciprocal_deviation(var, epsilon_of(static, params)).astype(mean.dtype)
    mean, rho = (layout.at_examples(vector, segments) for vector in (mean, rho))
    scale, bias = params.scale, params.bias
    if layout.differs(scale, bias):
        rho, scale, bias = layout.as_rows((rho, scale, bias))
    centered = zero_where_left_out(center(x, mean, None, layout), weights)
    centered = layout.zero_in_no_segment(centered, segments)
    if residual is not None:
        residual = zero_where_left_out(residual, weights)
    z = affine(centered, slope_of(rho, scale), bias, residual, layout)
    return activate(z, activation, batch, layout, dtype)
