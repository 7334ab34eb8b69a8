# SPDX-License-Identifier: Apache-2.0
"""The geometry of a batch: its axes, who shares it, and which positions count."""

import math
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Inexact, Integer, Shaped

from jaxbn._checks.kinds import is_complex
from jaxbn._core.collectives import Sync
from jaxbn._core.meshes import (
    is_sharded,
    shard_as_examples,
    vary_like,
)

Weights = Bool[Array, "..."] | Float[Array, "..."] | None
"""Which positions count (bool) or how much (float): the rank of `x`, size 1 where it is
the same for a whole axis, mostly so for features; None when all count."""


Rows = TypeVar("Rows")

Segments = Integer[Array, " b"] | None
"""The segment of each example; None where there are none."""


class Batch(NamedTuple):
    """The arrays that are sharded together with the batch."""

    x: Inexact[Array, "*n"]
    weights: Weights
    residual: Inexact[Array, "*n"] | None
    segments: Segments = None  # `num_segments` where an example is in none
    scale: Inexact[Array, "..."] | None = None  # of shape (b, *c): each example's own
    bias: Inexact[Array, "..."] | None = None  # likewise

    def sharded_alike(self) -> "Batch":
        """The batch with segments that are sharded as the examples are."""
        if self.segments is None:
            return self
        return self._replace(segments=shard_as_examples(self.segments, self.x))


class Layout(NamedTuple):
    """The shape of `x`, its feature axes, and who shares statistics; hashable."""

    shape: tuple[int, ...]
    feature_axes: tuple[int, ...]
    sync: Sync | None = None
    virtual_batch_size: int | None = None
    num_segments: int | None = None
    pairs: bool = False  # the last axis, of features, holds real and imaginary part

    @property
    def reduced_axes(self) -> tuple[int, ...]:
        """All other axes."""
        return tuple(a for a in range(len(self.shape)) if a not in self.feature_axes)

    @property
    def features(self) -> tuple[int, ...]:
        """The sizes of the feature axes: the shape of parameters."""
        return tuple(self.shape[a] for a in self.feature_axes)

    @property
    def of_statistics(self) -> tuple[int, ...]:
        """The shape of statistics: of each segment where there are segments."""
        segments = () if self.num_segments is None else (self.num_segments,)
        return segments + self.features

    @property
    def num_values(self) -> int:
        """How many values a feature has in this shard."""
        return math.prod(self.shape[a] for a in self.reduced_axes)

    @property
    def own_batch(self) -> tuple[int, ...] | None:
        """The shape of what is normalized on its own; None where shards share it."""
        size = self.virtual_batch_size
        if size is not None and size <= self.shape[0]:
            return (size, *self.shape[1:])
        return self.shape if self.sync is None else None

    @property
    def has_groups(self) -> bool:
        """Whether the shards form several batches."""
        return self.sync is not None and self.sync.groups is not None

    @property
    def counts(self) -> tuple[int, ...]:
        """How many values a feature has in each batch: one, or one for each group."""
        if self.sync is None:
            return (self.num_values,)
        return tuple(self.num_values * len(batch) for batch in self.sync.batches)

    def count(
        self,
        weights: Bool[Array, "..."] | Float[Array, "..."],
        segments: Segments,
        dtype: DTypeLike,
    ) -> Float[Array, "..."]:
        """Sums a feature's weights: one number, or one for each where they differ.

        Of each segment where there are segments.
        """
        if segments is not None:  # each example adds to its own
            weights = jnp.broadcast_to(weights, (self.shape[0], *weights.shape[1:]))
        counts = self.total(weights.astype(dtype), segments) * self._repeats_of(weights)
        if all(weights.shape[a] == 1 for a in self.feature_axes):
            return counts.reshape(self.of_statistics[: -len(self.feature_axes)])
        return jnp.broadcast_to(counts, self.of_statistics)

    def _repeats_of(self, weights: Shaped[Array, "..."]) -> int:
        """How many values of a feature share one weight."""
        alike = zip(self.shape, weights.shape, strict=True)
        shape = tuple(size if along == 1 else 1 for size, along in alike)
        return self._replace(shape=shape).num_values

    @property
    def of_pairs(self) -> "Layout":
        """The layout of a complex `x` as pairs of real numbers."""
        axes = (*self.feature_axes, len(self.shape))
        return self._replace(shape=(*self.shape, 2), feature_axes=axes, pairs=True)

    def has_examples(self, vector: Inexact[Array, "..."] | None) -> bool:
        """Whether a vector of features has a row for each example, or one for all."""
        return vector is not None and vector.ndim > len(self.feature_axes)

    def differs(self, *params: Inexact[Array, "..."] | None) -> bool:
        """Whether examples are mapped differently, so that vectors have rows."""
        return self.num_segments is not None or any(map(self.has_examples, params))

    def as_rows(self, params: Rows) -> Rows:
        """Gives vectors of features, and None, one row for all where they have none."""

        def as_row(vector: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
            return vector if self.has_examples(vector) else vector[None]

        return jax.tree.map(as_row, params)

    def _axes_of(self, vector: Inexact[Array, "..."]) -> tuple[int, ...]:
        """The axes of `x` that a vector of features has, or one for each example."""
        batch = (0,) if self.has_examples(vector) else ()
        return batch + self.feature_axes

    def expand(self, vector: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """Gives a vector of features, or one for each example, the rank of `x`."""
        axes = set(range(len(self.shape))) - set(self._axes_of(vector))
        return lax.expand_dims(vector, tuple(sorted(axes)))

    def spread(
        self, vector: Inexact[Array, "..."], like: Float[Array, "*n"]
    ) -> Inexact[Array, "*n"]:
        """Gives it the shape of `x`, and how that is sharded."""
        sharding = jax.typeof(like).sharding if is_sharded(like) else None
        axes = self._axes_of(vector)
        return lax.broadcast_in_dim(vector, like.shape, axes, out_sharding=sharding)

    def at_examples(
        self, vector: Inexact[Array, "..."], segments: Segments
    ) -> Inexact[Array, "..."]:
        """Gives each example the row of its segment; 0 where it has none.

        Where there are no segments, all examples share the vector.
        """
        if segments is None:
            return vector
        sharding = None
        if is_sharded(segments) or is_sharded(vector):
            rows, columns = jax.typeof(segments).sharding, jax.typeof(vector).sharding
            sharding = rows.update(spec=jax.P(rows.spec[0], *columns.spec[1:]))
        rows = vector.at[segments]
        return rows.get(mode="fill", fill_value=0, out_sharding=sharding)

    def in_a_segment(self, segments: Segments, ndim: int) -> Bool[Array, "..."] | None:
        """Which examples are in one, with axes of size 1 up to a rank; None for all."""
        if segments is None or self.num_segments is None:
            return None
        return lax.expand_dims(segments < self.num_segments, range(1, ndim))

    def zero_in_no_segment(
        self, x: Inexact[Array, "..."], segments: Segments
    ) -> Inexact[Array, "..."]:
        """Zeroes what belongs to examples that are in no segment.

        Sums by segment leave these out by themselves. A select before such a sum would
        be a pass of its own on CPU: here it is done after them.
        """
        return zero_where_left_out(x, self.in_a_segment(segments, x.ndim))

    def pool(self, var: Float[Array, "*gc"]) -> Float[Array, "*gc"]:
        """Gives the two parts of a complex number one variance, the sum of theirs."""
        if not self.pairs:
            return var
        return jnp.broadcast_to(jnp.sum(var, -1, keepdims=True), var.shape)

    def total(self, x: Float[Array, "..."], segments: Segments) -> Float[Array, "..."]:
        """Sums `x` over the reduced axes, where there are segments over each.

        No product is taken, so that NaN in one segment stays there.
        """
        if segments is None:
            return jnp.sum(x, axis=self.reduced_axes)
        of_examples = vary_like(jnp.sum(x, axis=self.reduced_axes[1:]), segments)
        segments = shard_as_examples(segments, of_examples)
        shape = (self.num_segments, *of_examples.shape[1:])
        sharding = None
        if is_sharded(of_examples):
            columns = jax.typeof(of_examples).sharding
            sharding = columns.update(spec=jax.P(None, *columns.spec[1:]))
        zeros = vary_like(jnp.zeros(shape, x.dtype, out_sharding=sharding), of_examples)
        to_examples = partial(self.at_examples, segments=segments)
        # The transpose also where a mesh is part of the type, for which JAX cannot tell
        # how a scatter is sharded.
        (totals,) = jax.linear_transpose(to_examples, zeros)(of_examples)
        return totals


def compute_dtype(x: Inexact[Array, "*n"]) -> np.dtype:
    """The dtype of the arithmetic: at least float32, float64 when `x` is."""
    double = x.dtype in (jnp.float64, jnp.complex128)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def vector_dtype(x: Inexact[Array, "*n"]) -> np.dtype:
    """The dtype of means, scale and bias: that of the arithmetic, complex as `x` is."""
    working = compute_dtype(x)
    if not is_complex(x.dtype):
        return working
    return jnp.dtype(jnp.complex128 if working == jnp.float64 else jnp.complex64)


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
    """Multiplies by float weights; `x` must be 0 already where the weight is 0."""
    return x if weights is None or weights.dtype == bool else weights * x
