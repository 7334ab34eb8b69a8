# SPDX-License-Identifier: Apache-2.0
"""Arguments brought to the rank and dtype of the computation: after the checks."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact, Shaped

from jaxbn._checks import (
    check_axis,
    check_features,
    check_inexact,
    check_mask,
    is_complex,
)
from jaxbn._collectives import Sync

Weights = Bool[Array, "..."] | Float[Array, "..."] | None
"""Which positions count (bool) or how much (float): the rank of `x`, size 1 where it is
the same for a whole axis; None when all count."""


class Layout(NamedTuple):
    """The shape of `x`, its feature axes, and who shares the batch; hashable."""

    shape: tuple[int, ...]
    feature_axes: tuple[int, ...]
    sync: Sync | None = None
    pairs: bool = False  # the last axis, of features, holds real and imaginary part

    @property
    def reduced_axes(self) -> tuple[int, ...]:
        """All other axes."""
        return tuple(a for a in range(len(self.shape)) if a not in self.feature_axes)

    @property
    def features(self) -> tuple[int, ...]:
        """The sizes of the feature axes: the shape of statistics and parameters."""
        return tuple(self.shape[a] for a in self.feature_axes)

    @property
    def num_values(self) -> int:
        """How many values a feature has."""
        return math.prod(self.shape[a] for a in self.reduced_axes)

    def expand(self, vector: Inexact[Array, "*c"]) -> Inexact[Array, "..."]:
        """Gives a vector of features the rank of `x`."""
        return lax.expand_dims(vector, self.reduced_axes)

    @property
    def of_pairs(self) -> "Layout":
        """That of the pairs of a complex `x`."""
        axes = (*self.feature_axes, len(self.shape))
        return self._replace(shape=(*self.shape, 2), feature_axes=axes, pairs=True)

    @property
    def as_given(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and feature axes as the user knows them."""
        pair = 1 if self.pairs else 0
        return (
            self.shape[: len(self.shape) - pair],
            self.feature_axes[: len(self.feature_axes) - pair],
        )

    def pool(self, var: Float[Array, "*gc"]) -> Float[Array, "*gc"]:
        """Real and imaginary part share one variance, the sum of theirs."""
        if not self.pairs:
            return var
        return jnp.broadcast_to(jnp.sum(var, -1, keepdims=True), var.shape)

    def total(self, x: Float[Array, "*n"]) -> Float[Array, "*c"]:
        """Sums `x` over the reduced axes."""
        return jnp.sum(x, axis=self.reduced_axes)


def lift_input(
    x: Shaped[Array, "*n"],
    axis: int | Sequence[int],
    sync: Sync | None = None,
    **vectors,
) -> tuple[Inexact[Array, "*n"], Layout]:
    """Checks `x`, `axis` and the named feature vectors; returns `x` and its layout."""
    check_inexact(x)
    axes = check_axis(axis, x.shape)
    check_features(x, axes, **vectors)
    return jnp.asarray(x), Layout(x.shape, axes, sync)


def compute_dtype(x: Inexact[Array, "*n"]) -> np.dtype:
    """The dtype of the arithmetic: at least float32, float64 when `x` is."""
    double = x.dtype in (jnp.float64, jnp.complex128)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def like_input(dtype: np.dtype, x: Inexact[Array, "*n"]) -> np.dtype:
    """The same precision, complex where `x` is."""
    if not is_complex(x.dtype):
        return dtype
    return jnp.dtype(jnp.complex128 if dtype == jnp.float64 else jnp.complex64)


def lift_vector(
    vector: Inexact[Array, "*c"] | None, dtype: np.dtype
) -> Inexact[Array, "*c"] | None:
    """Brings a vector of features to the dtype of the arithmetic."""
    return None if vector is None else jnp.asarray(vector, dtype)


def lift_mask(
    mask: Shaped[Array, "..."] | None, layout: Layout, dtype: np.dtype
) -> Weights:
    """Aligns `mask` with the leading axes of `x`; integers only say what counts."""
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    check_mask(mask, layout.shape, layout.feature_axes)
    if jnp.issubdtype(mask.dtype, jnp.floating):
        weights = lax.stop_gradient(mask.astype(dtype))
    else:
        weights = mask.astype(bool)
    trailing = len(layout.shape) - weights.ndim
    return weights.reshape(weights.shape + (1,) * trailing)


def positions_that_count(weights: Weights) -> Bool[Array, "..."] | None:
    """Where the weight is not 0; None when all count."""
    if weights is None or weights.dtype == bool:
        return weights
    return weights != 0


def zero_where_left_out(
    x: Inexact[Array, "*n"], weights: Weights
) -> Inexact[Array, "*n"]:
    """Selects, so that NaN in a position of weight 0 cannot pass, nor its gradient."""
    counts = positions_that_count(weights)
    return x if counts is None else jnp.where(counts, x, jnp.zeros((), x.dtype))


def weigh(x: Float[Array, "*n"], weights: Weights) -> Float[Array, "*n"]:
    """Multiplies by float weights what is 0 already where the weight is 0."""
    return x if weights is None or weights.dtype == bool else weights * x
