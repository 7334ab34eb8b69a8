# SPDX-License-Identifier: Apache-2.0
"""Sums and gathers across named axes, one collective each.

Both are built on `psum` alone, which works under `shard_map` (checked or not), `pmap`
and `vmap`, has the right transpose in each, and marks its result as equal everywhere.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxbn._checks.axes import Groups
from jaxbn._core.meshes import is_sharded, manual_axes


class Sync(NamedTuple):
    """The named axes to synchronise over, and groups of their indices; hashable."""

    names: tuple[str, ...]
    groups: Groups | None = None
    # The groups, of one size, are virtual batches: every shard gets the results of all
    # groups, stacked.
    stacked: bool = False

    @property
    def size(self) -> int:
        """The number of shards."""
        return math.prod(lax.axis_size(name) for name in self.names)

    @property
    def shard(self) -> Int[Array, ""]:
        """The number of this shard; the last name varies fastest."""
        shard = jnp.zeros((), jnp.int32)
        for name in self.names:
            shard = shard * lax.axis_size(name) + lax.axis_index(name)
        return shard

    @property
    def batches(self) -> Groups:
        """The indices of the shards of each batch."""
        return self.groups or (tuple(range(self.size)),)

    @property
    def group_of(self) -> np.ndarray:
        """The group of each shard."""
        table = np.zeros(self.size, np.int32)
        for number, group in enumerate(self.groups or ()):
            table[list(group)] = number
        return table

    @property
    def group(self) -> Int[Array, ""]:
        """The group of this shard."""
        return jnp.asarray(self.group_of)[self.shard]


def gather_across(x: Float[Array, " k"], sync: Sync) -> Float[Array, "*g d k"]:
    """Returns every shard's `x`; rows of zeros for those of other groups."""
    rows = _sum(_in_row(x, sync.shard, sync.size), sync.names)
    if sync.groups is None:
        return rows
    if sync.stacked:
        return rows[np.asarray(sync.groups)]
    mine = jnp.asarray(sync.group_of) == sync.group
    return jnp.where(mine[:, None], rows, jnp.zeros((), x.dtype))


Vectors = tuple[Float[Array, "..."], ...]


def sum_together(
    sums: Vectors, sync: Sync | None, *, own_group: bool = False
) -> Vectors:
    """Returns the sums over all shards, by one collective.

    They are stacked by group where there are groups, unless those of this shard's group
    alone are asked for. All are vectors of features, but the last may be one number,
    or one for each segment.
    """
    if sync is None:
        return sums
    packed = _packed(sums)
    if sync.groups is None:
        return _unpacked(_sum(packed, sync.names), sums)
    packed = _sum(_in_row(packed, sync.group, len(sync.groups)), sync.names)
    if own_group and not sync.stacked:
        return _unpacked(packed[sync.group], sums)

    def of_group(packed: Array) -> Vectors:
        return _unpacked(packed, sums)

    return jax.vmap(of_group)(packed)


def _fit_in_line(sums: Vectors) -> bool:
    """Whether to send them end to end: a row for the one number would waste numbers.

    Vectors that are sharded over a mesh stay so in rows alone.
    """
    return sums[-1].ndim < sums[0].ndim and not is_sharded(sums[0])


def _packed(sums: Vectors) -> Float[Array, "..."]:
    """One array of all, end to end or in rows."""
    if _fit_in_line(sums):
        return jnp.concatenate([jnp.ravel(one) for one in sums])
    zeros = jnp.zeros_like(sums[0])
    return jnp.stack(
        [lax.expand_dims(one, range(one.ndim, zeros.ndim)) + zeros for one in sums]
    )


def _unpacked(packed: Float[Array, "..."], like: Vectors) -> Vectors:
    """The inverse, for arrays of the shapes of others."""
    if _fit_in_line(like):
        ends = np.cumsum([one.size for one in like])[:-1]
        parts = zip(jnp.split(packed, ends), like, strict=True)
        return tuple(part.reshape(one.shape) for part, one in parts)
    rows = zip(jnp.unstack(packed), like, strict=True)
    # A number was repeated for each feature.
    return tuple(
        row if one.ndim == row.ndim else jnp.max(row, tuple(range(one.ndim, row.ndim)))
        for row, one in rows
    )


def own(vectors: Vectors, sync: Sync | None) -> Vectors:
    """Returns this shard's rows of vectors that may be stacked by group."""
    if sync is None or not sync.stacked:
        return vectors
    return of_own_group(vectors, sync)


def of_own_group(vectors: Vectors, sync: Sync | None) -> Vectors:
    """Returns this shard's rows of vectors that are stacked by group, if there are any.

    All are indexed as one, so that the transpose is one collective.
    """
    if sync is None or sync.groups is None:
        return vectors
    return tuple(jnp.unstack(jnp.stack(vectors, axis=1)[sync.group]))


def _in_row(
    x: Float[Array, "..."], row: Int[Array, ""], num_rows: int
) -> Float[Array, "r ..."]:
    """An array of zeros with `x` in one row."""
    here = jnp.arange(num_rows, dtype=jnp.int32) == row
    here = lax.expand_dims(here, tuple(range(1, x.ndim + 1)))
    return jnp.where(here, x[None], jnp.zeros((), x.dtype))


def _sum(x: Float[Array, "..."], names: tuple[str, ...]) -> Float[Array, "..."]:
    """One `psum` over the axes of the mesh, and one over those of `vmap` and `pmap`.

    A sum over a `vmap` axis is no collective, so that one collective remains.
    """
    manual = manual_axes()
    for part in (
        tuple(name for name in names if name not in manual),
        tuple(name for name in names if name in manual),
    ):
        if part:
            x = lax.psum(x, part)
    return x
