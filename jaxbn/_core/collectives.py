# SPDX-License-Identifier: Apache-2.0
"""Sums and gathers across named axes, one collective each.

Both are built on `psum` alone, which works under `shard_map` (checked or not), `pmap`
and `vmap`, has the right transpose in each, and marks its result as equal everywhere.
"""

import contextlib
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from jaxbn._checks.axes import Groups


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
    sums: Vectors, sync: Sync | None, *, of_own_group: bool = False
) -> Vectors:
    """Returns the sums over all shards, by one collective.

    They are stacked by group where there are groups, unless those of this shard's group
    alone are asked for. All are vectors of features, but the last may be one number.
    """
    if sync is None:
        return sums
    *_, last = sums
    vector = sums[0]
    flat = last.ndim < vector.ndim and not is_cut(vector)
    if flat:
        packed = jnp.concatenate([jnp.ravel(v) for v in sums])
    else:  # along a new axis: vectors that are cut over a mesh stay as they are
        packed = jnp.stack([v + jnp.zeros_like(vector) for v in sums])
    if sync.groups is not None:
        packed = _in_row(packed, sync.group, len(sync.groups))
    packed = _sum(packed, sync.names)
    groups = packed.shape[:1] if sync.groups is not None else ()
    if of_own_group and sync.groups is not None and not sync.stacked:
        packed, groups = packed[sync.group], ()
    if flat:
        ends = np.cumsum([v.size for v in sums])[:-1]
        parts = jnp.split(packed, ends, axis=-1)
        return tuple(
            part.reshape(*groups, *v.shape) for part, v in zip(parts, sums, strict=True)
        )
    parts = jnp.unstack(packed, axis=len(groups))
    if last.ndim < vector.ndim:
        features = tuple(range(len(groups), parts[-1].ndim))
        parts = (*parts[:-1], jnp.max(parts[-1], features))
    return tuple(parts)


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


def vary_like(x: Float[Array, "..."], like: Float[Array, "..."]) -> Float[Array, "..."]:
    """Marks `x` as varying over the mesh axes that `like` varies over.

    JAX would do so wherever the two meet, and transpose each of these places to a
    `psum`. Changes nothing except under `shard_map(check_vma=True)`.
    """
    missing = tuple(sorted(varying_axes(like) - varying_axes(x)))
    return lax.pcast(x, missing, to="varying") if missing else x


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


def manual_axes() -> tuple[str, ...]:
    """The mesh axes that an enclosing `shard_map` maps over."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def varying_axes(x: Shaped[Array, "..."]) -> frozenset[str]:
    """The mesh axes over which `x` varies."""
    kind = jax.typeof(x)
    if hasattr(kind, "vma"):  # before JAX 0.12
        return frozenset(kind.vma)
    return frozenset(kind.manual_axis_type.varying)


def is_cut(x: Shaped[Array, "..."]) -> bool:
    """Whether `x` is cut over a mesh axis that is part of its type."""
    return any(part is not None for part in jax.typeof(x).sharding.spec)


def in_mesh_of(x: Shaped[Array, "..."]) -> contextlib.AbstractContextManager[Any]:
    """Sets the mesh that `x` is cut over by its type, unless one is set.

    JAX computes without one, but for some functions under `vmap`.
    """
    if is_cut(x) and jax.sharding.get_abstract_mesh().empty:
        return jax.sharding.use_abstract_mesh(jax.typeof(x).sharding.mesh)
    return contextlib.nullcontext()


def cut_like(x: Shaped[Array, "*n"], like: Shaped[Array, "*n"]) -> Shaped[Array, "*n"]:
    """Returns `x` cut over the mesh as another array is, where its type says how."""
    sharding = jax.typeof(like).sharding
    if sharding.mesh.empty or jax.typeof(x).sharding.spec == sharding.spec:
        return x
    return jax.sharding.reshard(x, sharding)


def gathered_unless(num: int, x: Shaped[Array, "n ..."]) -> Shaped[Array, "n ..."]:
    """Returns `x` with its first axis whole, unless each shard has whole parts of it.

    That is, unless `num` parts of equal size can be cut over the mesh as `x` is.
    """
    sharding = jax.typeof(x).sharding
    first, *others = sharding.spec
    names = (first,) if isinstance(first, str) else first or ()
    shards = math.prod(sharding.mesh.shape[name] for name in names)
    if num % shards == 0:
        return x
    whole = sharding.update(spec=jax.P(None, *others))
    return jax.sharding.reshard(x, whole)
