# SPDX-License-Identifier: Apache-2.0
"""Checks of segments: parts of a batch that have statistics of their own."""

import operator

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Shaped

from jaxbn._checks.arrays import check_array
from jaxbn._checks.kinds import is_int


def check_num_segments(num_segments: object) -> int | None:
    """Returns `num_segments`, a positive number or None."""
    if num_segments is None:
        return None
    if not is_int(num_segments):
        raise TypeError(f"`num_segments` must be an int, got {num_segments!r}.")
    number = operator.index(num_segments)
    if number < 1:
        raise ValueError(f"`num_segments` must be at least 1, got {number}.")
    return number


def check_segments(
    segment_ids: Shaped[Array, "..."] | None,
    num_segments: object,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
) -> int | None:
    """Returns `num_segments`; each example must have an id, below it where known."""
    number = check_num_segments(num_segments)
    if segment_ids is None and number is None:
        return None
    if segment_ids is None:
        raise ValueError(
            f"`segment_ids` must be given with `num_segments={number}`, got None: say "
            "which segment each example is in."
        )
    if number is None:
        raise ValueError(
            "`num_segments` must be given with `segment_ids`, got None: the statistics "
            "need a static shape. A layer takes it in its constructor."
        )
    check_array(segment_ids, name="segment_ids")
    if not jnp.issubdtype(segment_ids.dtype, jnp.integer):
        raise TypeError(
            f"`segment_ids` must hold integers, got dtype {segment_ids.dtype}; convert "
            "it with `segment_ids.astype(jnp.int32)`."
        )
    if 0 in axes or segment_ids.shape != shape[:1]:
        raise ValueError(
            "`segment_ids` must have one id for each example, axis 0 of `x`, which "
            f"must not be a feature axis, got shape {segment_ids.shape} with `axis` "
            f"{axes} for `x` of shape {shape}."
        )
    if _is_known(segment_ids):
        outside = np.setdiff1d(segment_ids, np.arange(number))
        if outside.size:
            raise ValueError(
                f"`segment_ids` must be in [0, {number}), as `num_segments` says, got "
                f"{', '.join(map(str, outside[:5]))}; leave examples out by `mask`."
            )
    return number


def _is_known(x: Shaped[Array, "..."]) -> bool:
    """Whether this process has the values, and they are no part of a program."""
    return not isinstance(x, Tracer) and getattr(x, "is_fully_addressable", True)
