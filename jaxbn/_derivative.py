# SPDX-License-Identifier: Apache-2.0
r"""Batch norm in training, and its derivative by hand.

With weights $w_i$ of sum $W$, centered values $c_i = x_i - \mu$, deviation
$\rho = (v + \epsilon)^{-1/2}$, and per feature

$$z_i = \gamma\rho\,c_i + \beta + r_i, \qquad y_i = a(z_i),$$

a movement $\dot x, \dot\gamma, \dot\beta, \dot r$ moves mean and variance by
$\dot\mu, \dot v$ (see `moment_tangents`), hence $\dot\rho = -\rho^3 \dot v / 2$ and

$$\dot z_i = \gamma\rho\,\dot x_i
    + \underbrace{(\dot\gamma\rho - \tfrac12\gamma\rho^3\dot v)}_{\textstyle\dot s}\,c_i
    + \underbrace{(\dot\beta - \gamma\rho\,\dot\mu)}_{\textstyle\dot o} + \dot r_i .$$

This is all that is written here. It is linear in the dotted values, so that JAX
transposes it for reverse mode, and the form fixes what comes out. With
$g_i = a'(z_i)\,\partial L/\partial y_i$, the two broadcasts of feature vectors
transpose to the two sums of the backward pass, everything between them is on feature
vectors, and the cotangent of $\dot x$ is one chain, rounded once:

$$\bar o = \sum_i g_i, \quad \bar s = \sum_i g_i c_i, \quad
  \bar\beta = \bar o, \quad \bar\gamma = \rho\,\bar s, \quad
  \bar v = -\tfrac12\gamma\rho^3\,\bar s, \quad \bar\mu = -\gamma\rho\,\bar o,$$
$$\bar x_i = \gamma\rho\,g_i + \tfrac{w_i}{W}\left(\bar\mu + 2 c_i\,\bar v\right),
  \qquad \bar r_i = g_i .$$

Batch renorm puts $\gamma r$ and $\beta + \gamma d$ for $\gamma$ and $\beta$, and moves
them with $\dot\gamma r$ and $\dot\beta + \dot\gamma d$ (see `_renorm.py`).

Cotangents of the returned mean and variance add to $\bar\mu$ and $\bar v$. One rule
serves `jvp`, `vjp`, `hessian` and every order beyond, which a custom VJP cannot.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxbn._collectives import own, vary_like
from jaxbn._lift import Layout, Weights, zero_where_left_out
from jaxbn._normalize import (
    Activation,
    activate,
    affine,
    center,
    inverse_deviation,
    slope,
)
from jaxbn._renorm import Correction, Target, correction
from jaxbn._statistics import batch_statistics, moment_tangents
from jaxbn._types import Moments


class Setting(NamedTuple):
    """What is static; hashable."""

    layout: Layout
    epsilon: float
    activation: Activation | None
    dtype: np.dtype  # of the output


class Saved(NamedTuple):
    """What the derivative needs from the forward pass, and nothing else."""

    x: Float[Array, "*n"]  # in its own dtype; all else of its size is computed again
    weights: Weights
    anchor: Float[Array, "*c"]  # the mean is the sum of these two
    shift: Float[Array, "*c"]
    deviation: Float[Array, "*c"]
    count: Float[Array, "*g"]
    scale: Float[Array, "*c"] | None
    bias: Float[Array, "*c"] | None  # where an activation needs z again
    residual: Float[Array, "*n"] | None  # likewise, unless `output` tells enough
    output: Float[Array, "*n"] | None  # tells the sign of z after a ReLU with residual
    corrected: Correction | None


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def normalize_by_batch(
    setting: Setting,
    x: Float[Array, "*n"],
    weights: Weights,
    scale: Float[Array, "*c"] | None,
    bias: Float[Array, "*c"] | None,
    residual: Float[Array, "*n"] | None,
    target: Target | None = None,
) -> tuple[Float[Array, "*n"], Moments]:
    """Normalizes `x` by its own moments; returns the output and the moments.

    With a target, corrected towards it; no gradient flows to the target.
    """
    return _forward(setting, x, weights, scale, bias, residual, target)[0]


def _forward(setting, x, weights, scale, bias, residual, target):
    """Returns the result and what the derivative needs."""
    layout, epsilon, activation, dtype = setting
    statistics = batch_statistics(x, weights, layout)
    anchor, shift, var, _ = own(statistics, layout.sync)
    var = layout.pool(var)
    deviation = inverse_deviation(var, epsilon)
    corrected = None
    if target is not None:
        corrected = correction(anchor, shift, var, target, epsilon)
        scale, bias = corrected.of_scale(scale), corrected.of_bias(scale, bias)
    centered = zero_where_left_out(center(x, anchor, shift, layout), weights)
    if residual is not None:
        residual = zero_where_left_out(residual, weights)
    z = affine(centered, slope(deviation, scale), bias, residual, layout)
    y = activate(z, activation, weights, dtype)
    sign_from_output = activation is jax.nn.relu and residual is not None
    if sign_from_output:
        # XLA:GPU would rebuild y from all its inputs wherever it is used: 4 % of the
        # bytes of a ResNet-50 step. XLA:TPU fuses better without the barrier.
        y = lax.platform_dependent(y, cuda=lax.optimization_barrier, default=_same)
    saved = Saved(
        x,
        weights,
        anchor,
        shift,
        deviation,
        statistics.count,
        scale,
        bias=None if activation is None or sign_from_output else bias,
        residual=None if activation is None or sign_from_output else residual,
        output=y if sign_from_output else None,
        corrected=corrected,
    )
    return (y, statistics.moments), saved


def _same(y):
    return y


@normalize_by_batch.defjvp
def _normalize_by_batch_jvp(setting, primals, tangents):
    result, saved = _forward(setting, *primals)
    x_dot, _, scale_dot, bias_dot, residual_dot, _ = tangents
    # Under `checkpoint` reverse mode keeps the arguments, and computes centered values,
    # z and the ReLU's mask from them again; prevent_cse would only hinder XLA's fusion.
    tangent = jax.checkpoint(functools.partial(_tangent, setting), prevent_cse=False)
    return result, tangent(saved, x_dot, scale_dot, bias_dot, residual_dot)


def _tangent(setting, saved, x_dot, scale_dot, bias_dot, residual_dot):
    """Returns how output and moments move; linear in the four movements."""
    layout, working = setting.layout, saved.anchor.dtype
    x_dot = x_dot.astype(working)
    centered = zero_where_left_out(
        center(saved.x, saved.anchor, saved.shift, layout), saved.weights
    )
    moments_dot = moment_tangents(centered, x_dot, saved.count, saved.weights, layout)
    mean_dot, var_dot = own(moments_dot, layout.sync)
    var_dot = layout.pool(var_dot)
    if saved.corrected is not None and scale_dot is not None:
        bias_dot = saved.corrected.of_bias(scale_dot, bias_dot)
        scale_dot = saved.corrected.of_scale(scale_dot)
    rho = saved.deviation
    gain = slope(rho, saved.scale)
    slope_dot = -0.5 * gain * rho * rho * var_dot
    if scale_dot is not None:
        slope_dot = slope_dot + scale_dot * rho
    offset_dot = -gain * mean_dot
    if bias_dot is not None:
        offset_dot = offset_dot + bias_dot
    if layout.sync is not None:
        # Packed, so that their transpose is one collective.
        both = vary_like(jnp.stack([slope_dot, offset_dot]), x_dot)
        slope_dot, offset_dot = both[0], both[1]
    z_dot = affine(x_dot, gain, offset_dot, residual_dot, layout)
    z_dot = z_dot + layout.expand(slope_dot) * _centered_again(setting, saved)
    y_dot = zero_where_left_out(
        _activate_tangent(setting, saved, centered, z_dot), saved.weights
    )
    return y_dot, Moments(*moments_dot, jnp.zeros_like(saved.count))


def _centered_again(setting: Setting, saved: Saved) -> Float[Array, "*n"]:
    """The centered values, spelled so that XLA:CPU fuses them into the backward's sum.

    The reason is that of `_shifted_twice` in `_statistics.py`.
    """
    expand = setting.layout.expand
    again = saved.x.astype(saved.anchor.dtype) + expand(-saved.anchor)
    again = again + expand(-saved.shift)
    return zero_where_left_out(again, saved.weights)


def _activate_tangent(setting, saved, centered, z_dot):
    """How the output moves with z, in the output's dtype."""
    layout, _, activation, dtype = setting
    if activation is None:
        return z_dot.astype(dtype)
    gain = slope(saved.deviation, saved.scale)
    if activation is not jax.nn.relu:
        z = affine(centered, gain, saved.bias, saved.residual, layout)
        return jax.jvp(activation, (z,), (z_dot,))[1].astype(dtype)
    # The cotangent is masked in the output's dtype, before it is widened: half the
    # bytes, and on TPU the difference between one stored tensor and two.
    if saved.output is not None:
        active = saved.output > 0
    else:
        active = affine(centered, gain, saved.bias, None, layout) > 0
    return jnp.where(active, z_dot.astype(dtype), jnp.zeros((), dtype))
