# SPDX-License-Identifier: Apache-2.0
"""The affine map: what batch norm does to `x` once the statistics are given."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, Shaped

from jaxbn._checks import check_affine, check_dtype
from jaxbn._lift import (
    Layout,
    Weights,
    compute_dtype,
    lift_input,
    lift_mask,
    lift_vector,
    like_input,
    zero_where_left_out,
)

Activation = Callable[[Array], Array]


def inverse_deviation(var: Float[Array, "*c"], epsilon: float) -> Float[Array, "*c"]:
    """1 / sqrt(var + epsilon), and 0 where that is not finite: epsilon may be 0."""
    shifted = var + epsilon
    positive = jnp.where(shifted > 0, shifted, 1)
    return jnp.where(shifted > 0, lax.rsqrt(positive), 0)


def slope(
    deviation: Inexact[Array, "*c"], scale: Inexact[Array, "*c"] | None
) -> Inexact[Array, "*c"]:
    """What the centered input is multiplied by."""
    return deviation if scale is None else deviation * scale


def center(
    x: Inexact[Array, "*n"],
    mean: Inexact[Array, "*c"],
    shift: Inexact[Array, "*c"] | None,
    layout: Layout,
) -> Inexact[Array, "*n"]:
    """`x` less the mean, or less an anchor and a shift from it to the mean.

    In the dtype of the mean; subtracted first, never folded.
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
    """Applies the activation, rounds to `dtype`, and zeroes what is left out."""
    y = z if activation is None else activation(z)
    return zero_where_left_out(y.astype(dtype), weights)


def normalize(
    x: Inexact[Array, "*n"],
    mean: Inexact[Array, "*c"],
    var: Float[Array, "*c"],
    scale: Inexact[Array, "*c"] | None = None,
    bias: Inexact[Array, "*c"] | None = None,
    *,
    axis: int | Sequence[int] = -1,
    epsilon: float = 1e-5,
    mask: Shaped[Array, "..."] | None = None,
    residual: Inexact[Array, "*n"] | None = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
) -> Inexact[Array, "*n"]:
    r"""Normalizes `x` by given statistics: batch norm in inference, or frozen.

    $$y = a\left(\gamma\,\frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\right)$$

    with scale $\gamma$, bias $\beta$, residual $r$ and activation $a$. Numerics:

    - in float32, in float64 when `x` is, rounded once, to the output dtype;
    - the mean is subtracted first: folding it into the bias loses digits where the mean
      is large;
    - a variance of 0 with `epsilon=0` gives the bias, not NaN.

    Args:
        x: the input, any shape, real or complex.
        mean: of shape `(*c)`, the sizes of the feature axes.
        var: of the same shape, at least 0.
        scale: of the same shape, or None for 1.
        bias: of the same shape, or None for 0.
        axis: the feature axis or axes.
        epsilon: added to the variance, finite and at least 0.
        mask: which positions count, as in `compute_moments`; elsewhere the output is 0,
            and what stands there reaches no gradient.
        residual: added before the activation, of the shape of `x`.
        activation: an element-wise function, such as `jax.nn.relu`.
        dtype: of the output; None for that of `x`.

    Returns:
        The normalized input, of the shape of `x`. Differentiable in all arrays but
        `mask`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: `axis` or `epsilon` is out of range, or a shape does not fit `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxbn
        >>> x = jnp.array([[1.0], [5.0]])
        >>> y = jaxbn.normalize(x, jnp.array([3.0]), jnp.array([4.0]), epsilon=0.0)
        >>> y.tolist()
        [[-1.0], [1.0]]

    References:
        Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithm 2, step 11.
    """
    x, layout = lift_input(x, axis, mean=mean, var=var, scale=scale, bias=bias)
    epsilon = check_affine(x, epsilon, residual, activation)
    out_dtype = x.dtype if dtype is None else check_dtype(dtype, x.dtype)
    working = compute_dtype(x)
    weights = lift_mask(mask, layout, working)
    values = like_input(working, x)
    mean = jnp.asarray(mean, values)
    scale, bias = lift_vector(scale, values), lift_vector(bias, values)
    deviation = inverse_deviation(jnp.asarray(var, working), epsilon).astype(values)
    centered = zero_where_left_out(center(x, mean, None, layout), weights)
    if residual is not None:
        residual = zero_where_left_out(residual, weights)
    z = affine(centered, slope(deviation, scale), bias, residual, layout)
    return activate(z, activation, weights, out_dtype)
