# SPDX-License-Identifier: Apache-2.0
"""Sums and gathers across named axes, one collective each; all that varies with JAX.

Both are built on `psum` alone, which works under `shard_map` (checked or not), `pmap`
and `vmap`, has the right transpose in each, and marks its result as the same on all.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Shaped

from jaxbn._sync_checks import Groups, check_axis_name, check_groups, check_vmap_names

Stacked = TypeVar("Stacked")


class Sync(NamedTuple):
    """The named axes to synchronise over, and groups of their indices; hashable."""

    names: tuple[str, ...]
    groups: Groups | None = None
    # The groups, of one size, are virtual batches: their results come stacked, of all
    # of them on every shard.
    stacked: bool = False

    @property
    def size(self) -> int:
        """The number of shards."""
        return math.prod(lax.axis_size(name) for name in self.names)

    @property
    def index(self) -> Int[Array, ""]:
        """Which of them this is; the last name varies fastest."""
        index = jnp.zeros((), jnp.int32)
        for name in self.names:
            index = index * lax.axis_size(name) + lax.axis_index(name)
        return index

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
        return jnp.asarray(self.group_of)[self.index]


def lift_sync(
    axis_name: str | Sequence[str] | None,
    axis_index_groups: Sequence[Sequence[int]] | None,
) -> Sync | None:
    """Returns what the two arguments say, or None where there is nothing to do."""
    names = check_axis_name(axis_name)
    manual = _manual_axes()
    if manual and _varying_axes(lax.axis_index(manual)):  # that is, check_vma=True
        check_vmap_names(names, manual)
    groups = check_groups(axis_index_groups, names)
    return Sync(names, groups) if names else None


def gather_across(x: Float[Array, " k"], sync: Sync) -> Float[Array, "*g d k"]:
    """Returns every shard's `x`; rows of zeros for those of other groups."""
    rows = _sum(_in_row(x, sync.index, sync.size), sync.names)
    if sync.groups is None:
        return rows
    if sync.stacked:
        return rows[np.asarray(sync.groups)]
    mine = jnp.asarray(sync.group_of) == sync.group
    return jnp.where(mine[:, None], rows, jnp.zeros((), x.dtype))


def sum_across(x: Float[Array, " k"], sync: Sync) -> Float[Array, "*g k"]:
    """Returns the sum of the shards' `x`, of the own group where there are groups."""
    if sync.groups is None:
        return _sum(x, sync.names)
    sums = _sum(_in_row(x, sync.group, len(sync.groups)), sync.names)
    return sums if sync.stacked else sums[sync.group]


def own(stacked: Stacked, sync: Sync | None) -> Stacked:
    """Returns this shard's of results that may come stacked.

    They are picked as one, so that the transpose is one collective.
    """
    if sync is None or not sync.stacked:
        return stacked
    _, unravel = ravel_pytree(jax.tree.map(lambda a: a[0], stacked))
    return unravel(jax.vmap(lambda one: ravel_pytree(one)[0])(stacked)[sync.group])


def vary_like(x: Float[Array, "..."], like: Float[Array, "..."]) -> Float[Array, "..."]:
    """Marks `x` as varying over the mesh axes that `like` varies over.

    JAX would do so wherever the two meet, and transpose each place to a `psum` of its
    own. A no-op but under `shard_map(check_vma=True)`.
    """
    missing = tuple(sorted(_varying_axes(like) - _varying_axes(x)))
    return lax.pcast(x, missing, to="varying") if missing else x


def _in_row(
    x: Float[Array, " k"], row: Int[Array, ""], num_rows: int
) -> Float[Array, "r k"]:
    """A matrix of zeros but for this row."""
    here = jnp.arange(num_rows, dtype=jnp.int32) == row
    return jnp.where(here[:, None], x[None], jnp.zeros((), x.dtype))


def _sum(x: Float[Array, "..."], names: tuple[str, ...]) -> Float[Array, "..."]:
    """`psum`; one over the axes of the mesh, and one over those of `vmap` and `pmap`.

    A sum over a `vmap` axis is no collective, so that one remains.
    """
    manual = _manual_axes()
    for part in (
        tuple(name for name in names if name not in manual),
        tuple(name for name in names if name in manual),
    ):
        if part:
            x = lax.psum(x, part)
    return x


def _manual_axes() -> tuple[str, ...]:
    """The mesh axes that `shard_map` maps over, where this runs inside one."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def _varying_axes(x: Shaped[Array, "..."]) -> frozenset[str]:
    """The mesh axes over which `x` varies, in JAX 0.10 and after."""
    kind = jax.typeof(x)
    if hasattr(kind, "vma"):
        return frozenset(kind.vma)
    return frozenset(kind.manual_axis_type.varying)
