# SPDX-License-Identifier: Apache-2.0
"""Errors of `_checks.py`: a call that raises each, its type, its full text."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxbn
import jaxbn.nnx
from jaxbn.linen import BatchNorm

X = jnp.ones((8, 4, 3))
V = jnp.ones(3)


def linen(*args, **fields):
    return BatchNorm(**fields).init(jax.random.key(0), *args)


ERRORS = [
    (
        lambda: jaxbn.batch_norm(X.astype(jnp.uint8)),
        TypeError,
        (
            "`x` must hold floating-point numbers, got dtype uint8; convert it with "
            "`x.astype(jnp.float32)`."
        ),
    ),
    (
        lambda: jaxbn.batch_norm(X, V.astype(jnp.complex64)),
        TypeError,
        (
            "`scale` must hold real floating-point numbers, got dtype complex64: `x` is "
            "float32."
        ),
    ),
    (
        lambda: jaxbn.batch_norm(X, axis=1.0),
        TypeError,
        "`axis` must be an int or a sequence of ints, got 1.0.",
    ),
    (
        lambda: jaxbn.batch_norm(X, axis=True),
        TypeError,
        "`axis` must be an int or a sequence of ints, got True.",
    ),
    (
        lambda: jaxbn.batch_norm(X, axis=7),
        ValueError,
        "`axis` must be in [-3, 3), got 7 for `x` of shape (8, 4, 3).",
    ),
    (
        lambda: jaxbn.batch_norm(X, axis=(1, -2)),
        ValueError,
        (
            "`axis` must name each feature axis once and at least one, got (1, -2) for `x` "
            "of shape (8, 4, 3)."
        ),
    ),
    (
        lambda: jaxbn.compute_moments(X, axis=()),
        ValueError,
        (
            "`axis` must name each feature axis once and at least one, got () for `x` of "
            "shape (8, 4, 3)."
        ),
    ),
    (
        lambda: jaxbn.batch_norm(X, jnp.ones(5)),
        ValueError,
        (
            "`scale` must have shape (3,), the size of the feature axes (2,) of `x`, got "
            "(5,) for `x` of shape (8, 4, 3)."
        ),
    ),
    (
        lambda: jaxbn.batch_norm(X, jnp.ones((4, 3))),
        ValueError,
        (
            "`scale` must have shape (8, 3), the batch and the size of the feature axes "
            "(2,) of `x`, got (4, 3) for `x` of shape (8, 4, 3)."
        ),
    ),
    (
        lambda: jaxbn.normalize(
            X, V, V, segment_ids=jnp.zeros(8, jnp.int32), num_segments=2
        ),
        ValueError,
        (
            "`mean` must have shape (2, 3), `num_segments` and the size of the feature "
            "axes (2,) of `x`, got (3,) for `x` of shape (8, 4, 3)."
        ),
    ),
    (
        lambda: jaxbn.normalize(X, V, jnp.ones((1, 1, 3))),
        ValueError,
        (
            "`var` must have shape (3,), the size of the feature axes (2,) of `x`, got "
            "(1, 1, 3) for `x` of shape (8, 4, 3)."
        ),
    ),
    (
        lambda: jaxbn.batch_norm(X, V, V.astype(int)),
        TypeError,
        (
            "`bias` must hold floating-point numbers, got dtype int32; convert it with "
            "`bias.astype(jnp.float32)`."
        ),
    ),
    (
        lambda: jaxbn.batch_norm(X, mask=jnp.ones((8, 4), jnp.complex64)),
        TypeError,
        (
            "`mask` must be bool, int or float, got dtype complex64; 0 leaves a position "
            "out, a float weighs it."
        ),
    ),
    (
        lambda: jaxbn.batch_norm(X, mask=jnp.ones((8, 4, 3, 1))),
        ValueError,
        (
            "`mask` must have at most the rank of `x`, got shape (8, 4, 3, 1) for `x` of "
            "shape (8, 4, 3)."
        ),
    ),
    (
        lambda: BatchNorm(use_running_average=True).init(
            jax.random.key(0), jnp.ones((4, 4, 3)), mask=jnp.ones((4, 1))
        ),
        ValueError,
        (
            "`mask` must have the rank of `x` where it can be read in two ways, got shape "
            "(4, 1) for `x` of shape (4, 4, 3); write `mask.reshape(4, 1, 1)` for the leading "
            "axes of `x`, `mask.reshape(1, 4, 1)` for the last, as in Flax."
        ),
    ),
    (
        lambda: jaxbn.compute_moments(X, mask=jnp.ones((8, 5))),
        ValueError,
        (
            "`mask` must have the leading axes of `x`, or the rank of `x` and sizes that "
            "broadcast to it, got shape (8, 5) for `x` of shape (8, 4, 3); axis 1 has 5 "
            "instead of 4 or 1."
        ),
    ),
    (
        lambda: jaxbn.batch_norm(X, residual=jnp.ones((8, 3))),
        ValueError,
        "`residual` must have the shape of `x`, (8, 4, 3), got (8, 3).",
    ),
    (
        lambda: jaxbn.batch_norm(X, residual=jnp.ones(X.shape, int)),
        TypeError,
        (
            "`residual` must hold floating-point numbers, got dtype int32; convert it "
            "with `residual.astype(jnp.float32)`."
        ),
    ),
    (
        lambda: jaxbn.batch_norm(X, activation="relu"),
        TypeError,
        "`activation` must be a function such as `jax.nn.relu`, got 'relu'.",
    ),
    (
        lambda: jaxbn.normalize(X, V, V, dtype=jnp.int32),
        TypeError,
        "`dtype` must be a real floating-point dtype, got int32; leave it out for the usual one.",
    ),
    (
        lambda: jaxbn.batch_norm(X, epsilon=-1.0),
        ValueError,
        "`epsilon` must be finite and at least 0, got -1.0.",
    ),
    (
        lambda: jaxbn.normalize(X, V, V, epsilon=np.nan),
        ValueError,
        "`epsilon` must be finite and at least 0, got nan.",
    ),
    (
        lambda: jaxbn.batch_norm(X, epsilon="1e-5"),
        TypeError,
        "`epsilon` must be a number, got '1e-5'.",
    ),
    (
        lambda: jaxbn.batch_norm(X, activation=lambda z: z.sum(-1)),
        ValueError,
        (
            "`activation` must be element-wise, got a result of shape (8, 4) for an argument "
            "of shape (8, 4, 3)."
        ),
    ),
    (
        lambda: jaxbn.init_running_stats(3, dtype=int),
        TypeError,
        "`dtype` must be a real floating-point dtype, got int64; leave it out for the usual one.",
    ),
    (
        lambda: jaxbn.batch_norm(jnp.ones((1, 1, 3))),
        ValueError,
        (
            "`x` must have more than one value per feature in training, got shape (1, 1, 3) "
            "with `axis` (2,): the variance of one value is 0, so that the output would be "
            "`bias` whatever `x` is. Use a larger (virtual) batch, or the running averages."
        ),
    ),
    (
        lambda: linen(X, axis=-4, use_running_average=True),
        ValueError,
        "`axis` must be in [-3, 3), got -4 for `x` of shape (8, 4, 3).",
    ),
    (
        lambda: jaxbn.batch_norm([1.0, 2.0]),
        TypeError,
        "`x` must be an array, got list; convert it with `jnp.asarray`.",
    ),
]
