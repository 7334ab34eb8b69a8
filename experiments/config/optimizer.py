# SPDX-License-Identifier: Apache-2.0
"""The optimizer and its schedule."""

import dataclasses
import math
from typing import Literal

from experiments.config.ranges import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer."""

    name: Literal["sgd", "momentum", "adam", "adamw", "rmsprop", "lars"] = "sgd"
    """sgd; momentum: SGD with Nesterov momentum 0.9; adam; adamw; rmsprop; lars."""
    learning_rate: float = 0.1
    """The largest, > 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: falls to 0 at the last step."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises from 0, at least 0."""
    weight_decay: float = 0.0
    """Of kernels only, not of scales and biases, at least 0. With sgd and momentum it
    is added to the gradient, with adamw and lars as these have it; adam and rmsprop
    have none."""
    accumulate_steps: int = 1
    """Batches whose gradients are averaged into one update, at least 1."""

    def __post_init__(self):
        """Checks the ranges."""
        rate = self.learning_rate
        require(0 < rate < math.inf, "optimizer.learning_rate", "> 0", rate)
        steps = self.warmup_steps
        require(steps >= 0, "optimizer.warmup_steps", ">= 0", steps)
        decay = self.weight_decay
        require(0 <= decay < math.inf, "optimizer.weight_decay", ">= 0", decay)
        allowed = decay == 0 or self.name not in ("adam", "rmsprop")
        rule = "0 with adam and rmsprop; adamw has weight decay"
        require(allowed, "optimizer.weight_decay", rule, decay)
        batches = self.accumulate_steps
        require(batches >= 1, "optimizer.accumulate_steps", ">= 1", batches)
