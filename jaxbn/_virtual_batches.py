# SPDX-License-Identifier: Apache-2.0
"""Virtual batches: contiguous parts of the batch, each normalized by its own moments.

One that is no larger than what a shard holds is cut out of it by a reshape, and needs
no other shard. A larger one is a group of consecutive shards.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbn._collectives import Sync, gather_across
from jaxbn._lift import Layout, Weights
from jaxbn._sync_checks import check_virtual_batch_size
from jaxbn._types import Moments

Arrays = tuple[Float[Array, "*n"], Weights, Float[Array, "*n"] | None]
"""What is cut with the batch: `x`, the weights, the residual."""
Output = TypeVar("Output", Array, None)


def by_virtual_batch(
    function: Callable[..., tuple[Output, Moments]],
    layout: Layout,
    virtual_batch_size: int | None,
    arrays: Arrays,
) -> tuple[Output, Moments]:
    """Calls `function(layout, *arrays)` for each virtual batch; once without a size.

    Returns:
        The outputs, put together again, and the moments of all virtual batches of the
        (synchronised) batch, stacked.
    """
    if virtual_batch_size is None:
        return function(layout, *arrays)
    size, sync = layout.shape[0], layout.sync
    batches = () if sync is None else sync.groups or (tuple(range(sync.size)),)
    check_virtual_batch_size(
        virtual_batch_size, layout.shape, layout.feature_axes, batches
    )
    if sync is None or virtual_batch_size <= size or size == 0:
        num = size // virtual_batch_size or 1  # an empty batch is one virtual batch
        return _within_shard(function, layout, num, arrays)
    shards = virtual_batch_size // size
    groups = tuple(
        batch[start : start + shards]
        for batch in batches
        for start in range(0, len(batch), shards)
    )
    inner = layout._replace(sync=Sync(sync.names, groups, stacked=True))
    y, moments = function(inner, *arrays)
    batch_of = sync.group_of[[group[0] for group in groups]]
    return y, _leave_out(moments, batch_of, sync)


def _within_shard(function, layout, num, arrays):
    """Maps over `num` parts of what this shard holds."""
    size = layout.shape[0]
    part_shape = (size // num, *layout.shape[1:])
    inner = layout._replace(shape=part_shape, sync=None)
    cut = tuple(a is not None and a.shape[0] == size for a in arrays)
    parts = tuple(
        a.reshape(num, size // num, *a.shape[1:]) if is_cut else a
        for a, is_cut in zip(arrays, cut, strict=True)
    )
    y, moments = jax.vmap(
        lambda *part: function(inner, *part),
        in_axes=tuple(0 if is_cut else None for is_cut in cut),
        axis_size=num,
    )(*parts)
    if y is not None:
        y = y.reshape(layout.shape)
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

    def select(m):
        return jnp.where(
            mine.reshape(-1, *[1] * (m.ndim - 1)), m, jnp.zeros((), m.dtype)
        )

    return Moments(*map(select, moments))
