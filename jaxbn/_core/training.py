# SPDX-License-Identifier: Apache-2.0
r"""Batch norm in training, and its derivative by hand.

With weights $w_i$ of sum $W$, centered values $c_i = x_i - \mu$, the reciprocal
deviation $\rho = (v + \epsilon)^{-1/2}$, and per feature

$$z_i = \gamma\rho\,c_i + \beta + r_i, \qquad y_i = a(z_i),$$

tangents $\dot x, \dot\gamma, \dot\beta, \dot r$ give those of mean and variance,
$\dot\mu, \dot v$ (see `moment_tangents`), hence $\dot\rho = -\rho^3 \dot v / 2$ (with
$\dot v + \dot\epsilon$ where $\epsilon$ is traced) and

$$\dot z_i = \gamma\rho\,\dot x_i
    + \underbrace{(\dot\gamma\rho - \tfrac12\gamma\rho^3\dot v)}_{\textstyle\dot s}\,c_i
    + \underbrace{(\dot\beta - \gamma\rho\,\dot\mu)}_{\textstyle\dot o} + \dot r_i .$$

Only this is written here. It is linear in the tangents, so that JAX transposes it for
reverse mode, and its form decides what the transpose computes. With
$g_i = a'(z_i)\,\partial L/\partial y_i$, the two broadcasts of feature vectors
transpose to the two sums of the backward pass, everything between them is on feature
vectors, and the cotangent of $\dot x$ is one chain, rounded once:

$$\bar o = \sum_i g_i, \quad \bar s = \sum_i g_i c_i, \quad
  \bar\beta = \bar o, \quad \bar\gamma = \rho\,\bar s, \quad
  \bar v = -\tfrac12\gamma\rho^3\,\bar s, \quad \bar\mu = -\gamma\rho\,\bar o,$$
$$\bar x_i = \gamma\rho\,g_i + \tfrac{w_i}{W}\left(\bar\mu + 2 c_i\,\bar v\right),
  \qquad \bar r_i = g_i .$$

Batch renorm replaces $\gamma$ and $\beta$ by $\gamma r$ and $\beta + \gamma d$, whose
tangents are $\dot\gamma r$ and $\dot\beta + \dot\gamma d$ (see `renorm.py`).

Cotangents of the returned mean and variance add to $\bar\mu$ and $\bar v$. One rule
serves `jvp`, `vjp`, `hessian` and every higher order, which a custom VJP cannot.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Inexact

from jaxbn._checks.kinds import is_complex
from jaxbn._core import xla
from jaxbn._core.affine import (
    Params,
    Static,
    activate,
    affine,
    center,
    epsilon_of,
    reciprocal_deviation,
    slope_of,
)
from jaxbn._core.collectives import own
from jaxbn._core.layout import (
    Batch,
    Layout,
    Segments,
    Weights,
    compute_dtype,
    vector_dtype,
    zero_where_left_out,
)
from jaxbn._core.meshes import in_mesh_of, vary_like, vary_together
from jaxbn._core.pairs import batch_as_pairs, from_pairs, moments_from_pairs
from jaxbn._core.renorm import Correction, Target, correction
from jaxbn._core.statistics import batch_statistics, moment_tangents
from jaxbn._core.types import Moments
from jaxbn._core.virtual_batches import by_virtual_batch

INPUT, STATISTICS = "jaxbn_input", "jaxbn_statistics"
"""Names for `jax.checkpoint`; derivatives alone have them, not inference or exports."""


class Saved(NamedTuple):
    """What the derivative needs from the forward pass, and nothing else."""

    x: Float[Array, "*n"]  # in its own dtype; all else of its size is computed again
    weights: Weights
    anchor: Float[Array, "*c"]  # the mean is the sum of these two
    shift: Float[Array, "*c"]
    rho: Float[Array, "*c"]
    count: Float[Array, "..."]
    scale: Float[Array, "*c"] | None
    bias: Float[Array, "*c"] | None  # where an activation needs z again
    residual: Float[Array, "*n"] | None  # likewise, unless `output` tells enough
    output: Float[Array, "*n"] | None  # tells the sign of z after a ReLU with residual
    corrected: Correction | None
    segments: Segments


Result = tuple[Float[Array, "*n"], Moments]


@functools.partial(jax.jit, static_argnames="static")
def normalize_by_batch(
    static: Static, batch: Batch, params: Params, target: Target | None = None
) -> tuple[Inexact[Array, "*n"], Moments]:
    """Normalizes a batch, or each of its virtual batches, by its own moments.

    With a target, corrected towards it. Returns the output and the moments, stacked
    where there are virtual batches.
    """
    if is_complex(batch.x.dtype):
        return _normalize_complex(static, batch, params)
    shared, batch = params.split(static.layout, batch.sharded_alike())

    def of_part(layout: Layout, part: Batch) -> Result:
        params, part = shared.joined(part)
        return _normalize(static._replace(layout=layout), part, params, target)

    with in_mesh_of(batch.x):
        return by_virtual_batch(of_part, static.layout, batch)


def _normalize_complex(
    static: Static, batch: Batch, params: Params
) -> tuple[Inexact[Array, "*n"], Moments]:
    """Normalizes the parts of the numbers as pairs; what mixes them comes after."""
    layout, epsilon, activation, dtype = static
    scale, bias, traced = params
    pairs = Static(layout.of_pairs, epsilon, None, compute_dtype(batch.x))
    y, moments = normalize_by_batch(
        pairs, batch_as_pairs(batch), Params(None, None, traced)
    )
    if scale is None:
        scale = jnp.ones(layout.features, vector_dtype(batch.x))
    residual = batch.residual
    if residual is not None:
        residual = zero_where_left_out(residual, batch.weights)
    z = affine(from_pairs(y), scale, bias, residual, layout)
    y = activate(z, activation, batch, layout, dtype)
    return y, moments_from_pairs(moments)


@functools.partial(jax.custom_jvp, nondiff_argnames=("static",))
def _normalize(
    static: Static, batch: Batch, params: Params, target: Target | None
) -> Result:
    """Normalizes a real batch by its own moments; no gradient flows to the target."""
    return _forward(static, batch, params, target)[0]


@functools.partial(jax.jit, static_argnames=("static", "named"))
def _forward(
    static: Static,
    batch: Batch,
    params: Params,
    target: Target | None,
    *,
    named: bool = False,
) -> tuple[Result, Saved]:
    """Returns the result and what the derivative needs.

    With names for the input and the statistics, from which all else is computed.
    """
    layout, known, activation, dtype = static
    (x, weights, residual, segments), (scale, bias, _) = batch[:4], params
    if named:
        x = checkpoint_name(x, INPUT)
    at = functools.partial(layout.at_examples, segments=segments)
    epsilon = epsilon_of(static, params)
    differs = layout.differs(scale, bias)
    if differs:
        scale, bias = layout.as_rows((scale, bias))
    statistics = batch_statistics(x, weights, segments, layout, known)
    if named:
        statistics = checkpoint_name(statistics, STATISTICS)
    anchor, shift, var = own(statistics[:3], layout.sync)
    var = layout.pool(var)
    rho = reciprocal_deviation(var, epsilon)
    corrected = None
    if target is not None:
        corrected = correction(anchor, shift, var, target, epsilon)
        corrected = Correction(*map(at, corrected))
        if differs:
            corrected = layout.as_rows(corrected)
        scale, bias = corrected.of_scale(scale), corrected.of_bias(scale, bias)
    mean = at(anchor), at(shift)
    centered = zero_where_left_out(center(x, *mean, layout), weights)
    if residual is not None:
        residual = zero_where_left_out(residual, weights)
    slope = layout.as_rows(at(rho)) if differs else rho
    z = affine(centered, slope_of(slope, scale), bias, residual, layout)
    y = activate(z, activation, batch, layout, dtype)
    sign_from_output = activation is jax.nn.relu and residual is not None
    if sign_from_output:
        y = xla.keep_output(y)
    saved = Saved(
        x,
        weights,
        anchor,
        shift,
        rho,
        statistics.count,
        scale,
        bias=None if activation is None or sign_from_output else bias,
        residual=None if activation is None or sign_from_output else residual,
        output=y if sign_from_output else None,
        corrected=corrected,
        segments=segments,
    )
    return (y, statistics.moments), saved


@_normalize.defjvp
def _normalize_jvp(
    static: Static,
    primals: tuple[Batch, Params, Target | None],
    tangents: tuple[Batch, Params, Target | None],
) -> tuple[Result, Result]:
    result, saved = _forward(static, *primals, named=True)
    batch_dot, params_dot, _ = tangents
    # Under `checkpoint` reverse mode keeps the arguments alone, and computes centered
    # values, z and the ReLU's mask from them again. Within one program it may share
    # them with the forward pass: no barrier has to prevent that.
    tangent = jax.checkpoint(functools.partial(_tangent, static), prevent_cse=False)
    return result, tangent(saved, batch_dot.x, batch_dot.residual, params_dot)


def _tangent(
    static: Static,
    saved: Saved,
    x_dot: Float[Array, "*n"],
    residual_dot: Float[Array, "*n"] | None,
    params_dot: Params,
) -> Result:
    """Returns the tangents of output and moments; linear in the other tangents."""
    layout, working = static.layout, saved.anchor.dtype
    scale_dot, bias_dot, epsilon_dot = params_dot
    x_dot = layout.zero_in_no_segment(x_dot.astype(working), saved.segments)
    if residual_dot is not None:
        residual_dot = layout.zero_in_no_segment(residual_dot, saved.segments)
    at = functools.partial(layout.at_examples, segments=saved.segments)
    anchor, shift, rho = map(at, (saved.anchor, saved.shift, saved.rho))
    differs = layout.differs(scale_dot, bias_dot)
    if differs:
        rho = layout.as_rows(rho)
    saved = saved._replace(anchor=anchor, shift=shift, rho=rho)
    centered = zero_where_left_out(
        center(saved.x, anchor, shift, layout), saved.weights
    )
    all_dot = moment_tangents(
        centered, x_dot, saved.count, saved.weights, saved.segments, layout
    )
    mean_dot, half_dot = own(all_dot, layout.sync)
    half_dot = layout.pool(half_dot)
    if epsilon_dot is not None:
        half_dot = half_dot + epsilon_dot / 2
    if differs:
        vectors = mean_dot, half_dot, scale_dot, bias_dot
        if layout.sync is not None:
            # Packed before it meets what each example has, so that the transpose of
            # all that they share is one collective.
            vectors = vary_together(vectors, x_dot)
        vectors = at(vectors[0]), at(vectors[1]), *vectors[2:]
        mean_dot, half_dot, scale_dot, bias_dot = layout.as_rows(vectors)
    if saved.corrected is not None and scale_dot is not None:
        bias_dot = saved.corrected.of_bias(scale_dot, bias_dot)
        scale_dot = saved.corrected.of_scale(scale_dot)
    slope = slope_of(rho, saved.scale)
    # Factor by factor, since rho**3 alone would leave the range of float32.
    slope_dot = -(half_dot * rho * rho * slope)
    if scale_dot is not None:
        slope_dot = slope_dot + scale_dot * rho
    offset_dot = -slope * mean_dot
    if bias_dot is not None:
        offset_dot = offset_dot + bias_dot
    if layout.sync is not None and not differs:
        # Likewise, but fewer numbers.
        both = vary_like(jnp.stack([slope_dot, offset_dot]), x_dot)
        slope_dot, offset_dot = both[0], both[1]
    if differs:
        slope_dot = slope_dot + jnp.zeros_like(offset_dot)
        offset_dot = offset_dot + jnp.zeros_like(slope_dot)
        # After the sums that these transpose to: before them, a select of the cotangent
        # would be a pass of its own on CPU.
        slope_dot = layout.zero_in_no_segment(slope_dot, saved.segments)
        offset_dot = layout.zero_in_no_segment(offset_dot, saved.segments)
    spread = functools.partial(layout.spread, like=x_dot)
    offset_dot, slope_dot = xla.spread_together(offset_dot, slope_dot, spread)
    z_dot = affine(x_dot, slope, None, residual_dot, layout)
    z_dot = z_dot + offset_dot + slope_dot * _centered_again(static, saved)
    y_dot = zero_where_left_out(
        _activation_tangent(static, saved, centered, z_dot), saved.weights
    )
    moments_dot = Moments(all_dot[0], 2 * all_dot[1], jnp.zeros_like(saved.count))
    return y_dot, moments_dot


def _centered_again(static: Static, saved: Saved) -> Float[Array, "*n"]:
    """The centered values for the second sum of the backward pass."""
    expand = static.layout.expand
    again = saved.x.astype(saved.anchor.dtype)
    again = xla.subtract_again(again, saved.anchor, expand)
    again = xla.subtract_again(again, saved.shift, expand)
    again = zero_where_left_out(again, saved.weights)
    return static.layout.zero_in_no_segment(again, saved.segments)


def _activation_tangent(
    static: Static,
    saved: Saved,
    centered: Float[Array, "*n"],
    z_dot: Float[Array, "*n"],
) -> Float[Array, "*n"]:
    """The tangent of the output, in its dtype, for that of z."""
    layout, _, activation, dtype = static
    if activation is None:
        return z_dot.astype(dtype)
    slope = slope_of(saved.rho, saved.scale)
    if activation is not jax.nn.relu:
        z = affine(centered, slope, saved.bias, saved.residual, layout)
        z = layout.zero_in_no_segment(z, saved.segments)
        return jax.jvp(activation, (z,), (z_dot,))[1].astype(dtype)
    if saved.output is not None:
        active = saved.output > 0
    else:
        active = affine(centered, slope, saved.bias, None, layout) > 0
    return xla.select_narrow(active, z_dot, dtype)
