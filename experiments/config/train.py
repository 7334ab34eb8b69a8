# SPDX-License-Identifier: Apache-2.0
"""The loop."""

import dataclasses
from typing import Literal

from experiments.config.ranges import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop."""

    num_steps: int = 600
    """Steps in all, at least 1."""
    eval_every: int = 10
    """Steps between two evaluations on the test set, at least 1."""
    log_every: int = 10
    """Steps between two lines of training metrics, at least 1."""
    checkpoint_every: int = 200
    """Steps between two checkpoints, at least 1; the last step has one in any case."""
    keep_checkpoints: int = 2
    """The newest that are kept, at least 1; the best by test accuracy is kept too."""
    label_smoothing: float = 0.0
    """How much of each label is spread over all classes, in [0, 1)."""
    average_decay: float | None = None
    """Keeps an average of the weights, in (0, 1): average = average_decay * average +
    (1 - average_decay) * weights after each step. It is evaluated after the last step,
    by the statistics of the training examples. None: no average."""
    tensorboard: bool = False
    """Writes the metrics as TensorBoard's events too; needs the extra `tensorboard`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters and statistics are float32."""

    def __post_init__(self):
        """Checks the ranges."""
        steps = ("num_steps", "eval_every", "log_every", "checkpoint_every")
        for name in (*steps, "keep_checkpoints"):
            require(
                getattr(self, name) >= 1, f"train.{name}", ">= 1", getattr(self, name)
            )
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, "train.label_smoothing", "in [0, 1)", smoothing)
        decay = self.average_decay
        fits = decay is None or 0 < decay < 1
        require(fits, "train.average_decay", "in (0, 1)", decay)
