# SPDX-License-Identifier: Apache-2.0
"""What a saved run makes of images: probabilities, and mistakes by class."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.data import EvalBatches, Source
from experiments.train.evaluation import EVAL_BATCH
from experiments.train.saved import SavedRun

TOP = 5


class Mistakes(NamedTuple):
    """How a run scores on examples with labels."""

    loss: float
    top_5: float  # fraction whose label is among the five most probable classes
    table: np.ndarray  # examples by label (rows) and prediction (columns)

    @property
    def accuracy(self) -> float:
        """The fraction whose label is predicted."""
        return float(np.trace(self.table) / self.table.sum())


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model: nn.Module, variables: Any, images: Any) -> jax.Array:
    """Returns the logits of a batch by the running statistics."""
    return jnp.asarray(model.apply(variables, images, train=False), jnp.float32)


def probabilities(run: SavedRun, images: np.ndarray, size: int) -> np.ndarray:
    """Returns the probability of each class for up to `size` images.

    Batches of one size are compiled once.
    """
    filled = np.zeros((size, *images.shape[1:]), np.float32)
    filled[: len(images)] = images
    logits = logits_of(run.model, run.variables, filled)
    return np.asarray(jax.nn.softmax(logits))[: len(images)]


def find_mistakes(
    run: SavedRun, source: Source, show: Callable[[int], object]
) -> Mistakes:
    """Scores every example once, as an evaluation in training does.

    Args:
        run: what is scored.
        source: the examples.
        show: is called with the number of examples that are done.
    """
    num = len(run.class_names)
    table = np.zeros((num, num), np.int64)
    loss, top, done = 0.0, 0, 0
    for batch in EvalBatches(source, min(EVAL_BATCH, len(source))):
        logits = logits_of(run.model, run.variables, batch.image)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.label)
        counts = np.ones(len(batch.label), bool) if batch.mask is None else batch.mask
        rows = np.asarray(logits)[counts]
        label = np.asarray(batch.label)[counts]
        np.add.at(table, (label, rows.argmax(-1)), 1)
        above = rows > np.take_along_axis(rows, label[:, None], -1)
        top += int(np.sum(above.sum(-1) < TOP))
        loss += float(np.sum(np.asarray(losses, np.float64)[counts]))
        done += len(label)
        show(done)
    return Mistakes(loss / done, top / done, table)
