# SPDX-License-Identifier: Apache-2.0
"""Normalization by given statistics: inference, or frozen statistics."""

from collections.abc import Sequence

from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, Integer, Shaped

from jaxbn._core.affine import Activation, Params, normalize_by_given
from jaxbn._functions.lifting import Lifted, lift, lift_params, lift_statistics
from jaxbn._functions.settings import BatchSettings


def normalize(
    x: Inexact[Array, "*n"],
    mean: Inexact[Array, "..."],
    var: Float[Array, "..."],
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    axis: int | Sequence[int] = -1,
    epsilon: float | Float[Array, ""] = 1e-5,
    mask: Shaped[Array, "..."] | None = None,
    segment_ids: Integer[Array, " b"] | None = None,
    num_segments: int | None = None,
    residual: Inexact[Array, "*n"] | None = None,
    activation: Activation | None = None,
    dtype: DTypeLike | None = None,
) -> Inexact[Array, "*n"]:
    r"""Normalizes `x` by given statistics: batch norm in inference, or frozen.

    $$y = a\left(\gamma\,\frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\right)$$

    with scale $\gamma$, bias $\beta$, residual $r$ and activation $a$. Numerics:

    - in float32, in float64 when `x` is, rounded once, to the output dtype;
    - the mean is subtracted first: folding it into the bias would lose digits where the
      mean is large;
    - a variance of 0 with `epsilon=0` gives the bias, not NaN.

    Args:
        x: the input, any shape, real or complex.
        mean: of shape `(*c)`, the sizes of the feature axes; with segments of shape
            `(num_segments, *c)`.
        var: of the same shape, at least 0.
        scale: of shape `(*c)`, or `(b, *c)`: one for each example; None for 1.
        bias: likewise, or None for 0.
        axis: the feature axis or axes.
        epsilon: added to the variance, finite and at least 0; may be traced.
        mask: which positions count, as in `compute_moments`; elsewhere the output is 0,
            and `x` affects no gradient.
        segment_ids: the segment of each example, axis 0 of `x`, which is normalized by
            that row of `mean` and `var`; where an id that is not known when the call is
            traced is out of range, to 0.
        num_segments: how many segments there are.
        residual: added before the activation, of the shape of `x`.
        activation: an element-wise function, as for `batch_norm`.
        dtype: of the output; None for that of `x`.

    Returns:
        The normalized input, of the shape of `x`. Differentiable in all arrays but
        `mask`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: `axis` or `epsilon` is out of range, a shape does not fit `x`,
            `segment_ids` and `num_segments` are not given together, or an id that is
            known is out of range.

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
    settings = BatchSettings(
        axis=axis,
        epsilon=epsilon,
        num_segments=num_segments,
        activation=activation,
        dtype=dtype,
    )
    lifted = lift(x, settings, mask=mask, segment_ids=segment_ids, residual=residual)
    statistics = lift_statistics(lifted, mean, var)
    return normalize_by(lifted, lift_params(lifted, scale, bias), *statistics)


def normalize_by(
    lifted: Lifted, params: Params, mean: Inexact[Array, "*c"], var: Float[Array, "*c"]
) -> Inexact[Array, "*n"]:
    """Normalizes a lifted batch by lifted statistics."""
    y = normalize_by_given(lifted.static, lifted.batch, params, mean, var)
    return lifted.activate(y)
