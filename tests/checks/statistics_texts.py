# SPDX-License-Identifier: Apache-2.0
"""The errors of moments and running statistics: a call that raises each, its text."""

import jax.numpy as jnp

import jaxbn
import jaxbn.nnx
from tests.checks.array_texts import X

ERRORS = [
    (
        lambda: jaxbn.update_running_stats(
            jaxbn.init_running_stats(3), jaxbn.compute_moments(X.astype("complex64"))
        ),
        TypeError,
        (
            "`stats.mean` must be complex where the input is, and only there, got float32 "
            "for moments of complex64; initialize with such an input, or convert it with "
            "`mean.astype(jnp.complex64)`."
        ),
    ),
    (
        lambda: jaxbn.batch_renorm(X, jaxbn.init_running_stats(3), max_scale="3"),
        TypeError,
        "`max_scale` must be a number, got '3'.",
    ),
    (
        lambda: jaxbn.batch_renorm(
            X, jaxbn.init_running_stats(3), max_scale=lambda n: 3.0
        ),
        TypeError,
        (
            "`max_scale` must be a number here, got a function; give a schedule to the "
            "constructor of `BatchRenorm`, which counts its updates."
        ),
    ),
    (
        lambda: jaxbn.batch_renorm(
            X, jaxbn.init_running_stats(3), max_shift=jnp.ones((2, 2))
        ),
        ValueError,
        (
            "`max_shift` must be one number, or have the shape of the statistics, (3,), "
            "got shape (2, 2)."
        ),
    ),
    (
        lambda: jaxbn.batch_renorm(X, jaxbn.init_running_stats(3), max_shift=-1.0),
        ValueError,
        (
            "`max_shift` must be at least 0, got -1.0; `max_scale=1` and `max_shift=0` "
            "correct nothing."
        ),
    ),
    (
        lambda: jaxbn.update_running_stats(
            jaxbn.init_running_stats(3), jaxbn.compute_moments(X), momentum=1.5
        ),
        ValueError,
        (
            "`momentum` must be in [0, 1], got 1.5; it weighs the old value, PyTorch's is 1 "
            "minus this."
        ),
    ),
    (
        lambda: jaxbn.update_running_stats(
            jaxbn.init_running_stats(3), jaxbn.compute_moments(X), momentum="0.9"
        ),
        TypeError,
        "`momentum` must be a number or None, got '0.9'.",
    ),
    (
        lambda: jaxbn.update_running_stats(
            jaxbn.init_running_stats(4), jaxbn.compute_moments(X)
        ),
        ValueError,
        (
            "`moments` must have the shape of `stats`, (4,), got (3,); merge stacked moments "
            "with `merge_moments` first."
        ),
    ),
    (
        lambda: jaxbn.init_running_stats(-1),
        ValueError,
        "`num_features` must be at least 0, got -1.",
    ),
    (
        lambda: jaxbn.init_running_stats(3.0),
        TypeError,
        "`num_features` must be an int or a sequence of ints, got 3.0.",
    ),
    (
        lambda: jaxbn.merge_moments(jaxbn.compute_moments(X)),
        ValueError,
        (
            "`axis` must be one of the 0 stacked axes of `moments`, those of its count of "
            "shape (), got 0."
        ),
    ),
    (
        lambda: jaxbn.merge_moments(jaxbn.compute_moments(X), axis=None),
        TypeError,
        "`axis` must be an int, got None.",
    ),
]
