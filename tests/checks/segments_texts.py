# SPDX-License-Identifier: Apache-2.0
"""The errors of segments: a call that raises each, its full text."""

import jax.numpy as jnp

import jaxbn
from jaxbn.linen import BatchNorm

X = jnp.ones((4, 3))
IDS = jnp.zeros(4, jnp.int32)


def moments(segment_ids=IDS, num_segments=2, **call):
    return jaxbn.compute_moments(
        X, segment_ids=segment_ids, num_segments=num_segments, **call
    )


ERRORS = [
    (
        lambda: BatchNorm(num_segments=2.0),
        TypeError,
        "`num_segments` must be an int, got 2.0.",
    ),
    (
        lambda: BatchNorm(num_segments=0),
        ValueError,
        "`num_segments` must be at least 1, got 0.",
    ),
    (
        lambda: moments(None),
        ValueError,
        (
            "`segment_ids` must be given with `num_segments=2`, got None: say which "
            "segment each example is in."
        ),
    ),
    (
        lambda: moments(num_segments=None),
        ValueError,
        (
            "`num_segments` must be given with `segment_ids`, got None: the statistics "
            "need a static shape. A layer takes it in its constructor."
        ),
    ),
    (
        lambda: moments([0, 1, 0, 1]),
        TypeError,
        "`segment_ids` must be an array, got list; convert it with `jnp.asarray`.",
    ),
    (
        lambda: moments(jnp.zeros(4)),
        TypeError,
        (
            "`segment_ids` must hold integers, got dtype float32; convert it with "
            "`segment_ids.astype(jnp.int32)`."
        ),
    ),
    (
        lambda: moments(IDS[:3]),
        ValueError,
        (
            "`segment_ids` must have one id for each example, axis 0 of `x`, which must "
            "not be a feature axis, got shape (3,) with `axis` (1,) for `x` of shape "
            "(4, 3)."
        ),
    ),
    (
        lambda: moments(IDS.at[1].set(2).at[2].set(-1)),
        ValueError,
        (
            "`segment_ids` must be in [0, 2), as `num_segments` says, got -1, 2; leave "
            "examples out by `mask`."
        ),
    ),
]
