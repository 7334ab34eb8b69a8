# SPDX-License-Identifier: Apache-2.0
"""The normalization."""

import dataclasses
import math
from typing import Literal

from experiments.config.ranges import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormConfig:
    """The normalization, the same in every place of the network."""

    kind: Literal["batch", "renorm", "group", "layer", "none"] = "batch"
    """batch, renorm: jaxbn's BatchNorm, BatchRenorm; group, layer: Flax's GroupNorm,
    LayerNorm; none: nothing."""
    momentum: float = 0.9
    """Of the running statistics, in [0, 1): new = momentum * old + (1 - momentum) *
    batch; PyTorch's is 1 minus this."""
    epsilon: float = 1e-5
    """Added to the variance, > 0."""
    virtual_batch_size: int | None = None
    """Ghost batch norm: each so many examples, at least 2, are normalized by their own
    statistics; they divide data.batch_size. None: the whole batch."""
    debias: bool = False
    """Leave the initial 0 and 1 out of the running statistics."""
    group_size: int = 16
    """Channels in a group of GroupNorm, at least 1; they divide all channels."""

    def __post_init__(self):
        """Checks the ranges."""
        require(0 <= self.momentum < 1, "norm.momentum", "in [0, 1)", self.momentum)
        require(0 < self.epsilon < math.inf, "norm.epsilon", "> 0", self.epsilon)
        size = self.virtual_batch_size
        require(size is None or size >= 2, "norm.virtual_batch_size", ">= 2", size)
        require(self.group_size >= 1, "norm.group_size", ">= 1", self.group_size)
