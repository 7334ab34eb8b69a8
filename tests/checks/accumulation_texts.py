# SPDX-License-Identifier: Apache-2.0
"""The errors of micro-batches: a call that raises each, its full text."""

from flax import nnx

import jaxbn.linen
import jaxbn.nnx


def begin_twice():
    norm = jaxbn.nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    jaxbn.nnx.begin_accumulation(norm)
    jaxbn.nnx.begin_accumulation(norm)


ERRORS = [
    (
        lambda: jaxbn.linen.commit([1.0]),
        TypeError,
        "`batch_stats` must be a mapping, got list.",
    ),
    (
        begin_twice,
        ValueError,
        (
            "`begin_accumulation` must come before all micro-batches, got a second one for "
            "`.`; call `commit` first."
        ),
    ),
    (
        lambda: jaxbn.nnx.commit(jaxbn.nnx.BatchNorm(3, rngs=nnx.Rngs(0))),
        ValueError,
        (
            "`model` must have norms that accumulate, got none for `commit`; call "
            "`begin_accumulation` before the micro-batches."
        ),
    ),
]
