# SPDX-License-Identifier: Apache-2.0
"""The network."""

import dataclasses
import math
from typing import Literal

from experiments.config.ranges import require

USED_BY = {
    "hidden": ("dense", "conv"),
    "depth": ("plain",),
    "activation": ("dense", "conv", "plain"),
    "placement": ("dense", "conv"),
    "dropout": ("dense", "conv"),
    "step_statistics": ("step_gru",),
    "convolution": ("conv",),
}
"""The fields that not every network has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    name: Literal[
        "dense", "conv", "plain", "gru", "lstm", "step_gru",
        "resnet18", "resnet34", "resnet50", "resnet101",
    ] = "dense"  # fmt: skip
    """dense: hidden layers of 128 and 64 units; conv: one of 3x3 with 32 channels;
    plain: `depth` layers of 32 units. gru, lstm: read an image row by row, 64 units,
    norm before and after the cell; step_gru: 32 units, norm within the cell at every
    step. resnet...: v1.5, with the stem of CIFAR up to 64 pixels, that of ImageNet
    above."""
    hidden: tuple[int, ...] | None = None
    """Units of each hidden layer of dense, channels of each of conv; None: as above."""
    depth: int = 2
    """Hidden layers of plain, at least 2."""
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    """Of dense, conv and plain."""
    placement: Literal["before", "after"] = "before"
    """Whether the norm of dense and conv stands before or after the activation."""
    dropout: float = 0.0
    """Of the hidden units of dense and conv in training, in [0, 1)."""
    init_scale: float = 1.0
    """Initial kernels are the usual ones times this, > 0."""
    step_statistics: bool = True
    """Whether the norm of step_gru has statistics for each step, or for all in one."""
    convolution: Literal["xla", "patches"] = "xla"
    """How conv computes: patches, as a product of matrices, is faster for small images
    on a CPU."""

    def __post_init__(self):
        """Checks the ranges."""
        hidden = self.hidden
        fits = hidden is None or bool(hidden and min(hidden) >= 1)
        require(fits, "model.hidden", ">= 1 each, at least one", hidden)
        require(self.depth >= 2, "model.depth", ">= 2", self.depth)
        require(0 <= self.dropout < 1, "model.dropout", "in [0, 1)", self.dropout)
        scale = self.init_scale
        require(0 < scale < math.inf, "model.init_scale", "> 0", scale)
        for field in dataclasses.fields(self):
            networks = USED_BY.get(field.name, (self.name,))
            value = getattr(self, field.name)
            fits = self.name in networks or value == field.default
            rule = f"left out but for {' and '.join(networks)}"
            require(fits, f"model.{field.name}", rule, value)
