# SPDX-License-Identifier: Apache-2.0
"""Virtual batches: contiguous parts of the batch, each with its own moments.

A part that is no larger than a shard is cut out of it by a reshape, and needs no other
shard. A larger one is a group of consecutive shards.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxbn._core.collectives import Sync, gather_across
from jaxbn._core.layout import Batch, Layout
from jaxbn._core.meshes import gathered_unless, in_mesh_of, shard_like
from jaxbn._core.types import Moments

Output = TypeVar("Output", Array, None)
OfPart = Callable[[Layout, Batch], tuple[Output, Moments]]


def by_virtual_batch(
    function: OfPart[Output], layout: Layout, batch: Batch
) -> tuple[Output, Moments]:
    """Calls the function for each virtual batch; once where there are none.

    Returns:
        The outputs, put together again, and the moments of all virtual batches of the
        (synchronised) batch, stacked.
    """
    part_size, size, sync = layout.virtual_batch_size, layout.shape[0], layout.sync
    if part_size is None:
        return function(layout, batch)
    layout = layout._replace(virtual_batch_size=None)
    if sync is None or part_size <= size or size == 0:
        num = size // part_size or 1  # an empty batch is one virtual batch
        return _within_shard(function, layout, num, batch)
    shards = part_size // size
    groups = tuple(
        shared[start : start + shards]
        for shared in sync.batches
        for start in range(0, len(shared), shards)
    )
    inner = layout._replace(sync=Sync(sync.names, groups, stacked=True))
    y, moments = function(inner, batch)
    batch_of = sync.group_of[[group[0] for group in groups]]
    return y, _leave_out(moments, batch_of, sync)


def _within_shard(
    function: OfPart[Output], layout: Layout, num: int, batch: Batch
) -> tuple[Output, Moments]:
    """Maps over `num` parts of what this shard holds."""
    size = layout.shape[0]
    part_shape = (size // num, *layout.shape[1:])
    inner = layout._replace(shape=part_shape, sync=None)

    def is_parted(array: Shaped[Array, "..."]) -> bool:
        # Weights may have size 1 along the batch: then all parts share them.
        return array.shape[0] == size

    def cut(array: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        if not is_parted(array):
            return array
        array = gathered_unless(num, array)
        return array.reshape(num, size // num, *array.shape[1:])

    def of_part(part: Batch) -> tuple[Output, Moments]:
        return function(inner, part)

    def axis_of(array: Shaped[Array, "..."]) -> int | None:
        return 0 if is_parted(array) else None

    axes = jax.tree.map(axis_of, batch)
    over_parts = jax.vmap(of_part, in_axes=(axes,), axis_size=num)
    with in_mesh_of(batch.x):
        y, moments = over_parts(jax.tree.map(cut, batch))
    if y is not None:
        y = shard_like(y.reshape(layout.shape), batch.x)
    return y, moments if layout.sync is None else _all_shards(moments, layout.sync)


def _all_shards(moments: Moments, sync: Sync) -> Moments:
    """Returns the stacked moments of all shards, by one collective."""
    packed = jnp.concatenate([jnp.ravel(m) for m in moments])
    rows = gather_across(packed, sync)
    ends = np.cumsum([m.size for m in moments])[:-1]
    return Moments(
        *(
            part.reshape(-1, *m.shape[1:])
            for part, m in zip(jnp.split(rows, ends, axis=1), moments, strict=True)
        )
    )


def _leave_out(moments: Moments, batch_of: np.ndarray, sync: Sync) -> Moments:
    """Sets to 0 the moments, count included, of what is not in this shard's batch."""
    if sync.groups is None:
        return moments
    mine = jnp.asarray(batch_of) == sync.group

    def select(m: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.where(
            mine.reshape(-1, *[1] * (m.ndim - 1)), m, jnp.zeros((), m.dtype)
        )

    return Moments(*map(select, moments))
