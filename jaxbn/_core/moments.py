# SPDX-License-Identifier: Apache-2.0
"""The moments of a batch, real or complex, whole or sharded, and of stacked parts."""

import functools

import jax
import jax.numpy as jnp

from jaxbn._checks.kinds import is_complex
from jaxbn._core.layout import Batch, Layout
from jaxbn._core.pairs import as_pairs, batch_as_pairs, moments_from_pairs
from jaxbn._core.statistics import batch_statistics, merge
from jaxbn._core.types import Moments
from jaxbn._core.virtual_batches import by_virtual_batch


@functools.partial(jax.jit, static_argnames="layout")
def batch_moments(layout: Layout, batch: Batch) -> Moments:
    """Returns the moments of a batch, or of its virtual batches, stacked."""
    if is_complex(batch.x.dtype):
        pairs = batch_moments(layout.of_pairs, batch_as_pairs(batch))
        return moments_from_pairs(pairs)

    def of_part(layout: Layout, part: Batch) -> tuple[None, Moments]:
        return None, batch_statistics(
            part.x, part.weights, part.segments, layout, 0.0
        ).moments

    return by_virtual_batch(of_part, layout, batch.sharded_alike())[1]


def merge_stacked(moments: Moments, axis: int) -> Moments:
    """Merges moments along a stacked axis; see `merge_moments`.

    There may be one count for all features, or one for each.
    """
    mean, var, count = moments
    if not jnp.iscomplexobj(mean):
        return merge(moments, axis)
    pairs, shared = as_pairs(mean), jnp.stack([var, jnp.zeros_like(var)], axis=-1)
    if count.ndim == var.ndim:
        count = jnp.stack([count, count], axis=-1)
    return moments_from_pairs(merge(Moments(pairs, shared, count), axis))
