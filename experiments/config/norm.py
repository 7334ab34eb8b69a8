# SPDX-License-Identifier: Apache-2.0
"""The normalization."""

import dataclasses
import math
from typing import Literal

from experiments.config.ranges import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormConfig:
    """The normalization, the same in every place of the network."""

    kind: Literal["batch", "renorm", "group", "layer", "instance", "none"] = "batch"
    """batch, renorm: jaxbn's BatchNorm, BatchRenorm; group, layer: Flax's GroupNorm,
    LayerNorm; instance: GroupNorm of single channels; none: nothing."""
    momentum: float = 0.9
    """Of the running statistics, in [0, 1): new = momentum * old + (1 - momentum) *
    batch; PyTorch's is 1 minus this."""
    epsilon: float = 1e-5
    """Added to the variance, > 0."""
    virtual_batch_size: int | None = None
    """Ghost batch norm: each so many examples, at least 1, are normalized by their own
    statistics; they divide data.batch_size. None: the whole batch."""
    debias: bool = False
    """Leave the initial 0 and 1 out of the running statistics."""
    group_size: int = 16
    """Channels in a group of GroupNorm, at least 1; they divide all channels."""
    affine: Literal["both", "scale", "bias", "none", "fixed"] = "both"
    """What is learned after normalizing; fixed: a scale of `fixed_scale`, not trained,
    of batch and renorm."""
    fixed_scale: float = 0.1
    """The scale of `affine` fixed, > 0."""
    unbiased: bool = False
    """Running variance with Bessel's correction, as PyTorch has it."""
    ignore_mask: bool = False
    """Count padding as values, as a batch norm without masks does; to see the harm."""
    noise: float = 0.0
    """Strength of noise behind the norm in training, at least 0; for experiments on the
    shift of distributions, with batch and renorm."""

    def __post_init__(self):
        """Checks the ranges."""
        require(0 <= self.momentum < 1, "norm.momentum", "in [0, 1)", self.momentum)
        require(0 < self.epsilon < math.inf, "norm.epsilon", "> 0", self.epsilon)
        size = self.virtual_batch_size
        require(size is None or size >= 1, "norm.virtual_batch_size", ">= 1", size)
        scale = self.fixed_scale
        require(0 < scale < math.inf, "norm.fixed_scale", "> 0", scale)
        require(0 <= self.noise < math.inf, "norm.noise", ">= 0", self.noise)
        of_the_batch = self.kind in ("batch", "renorm")
        rule = "for kinds batch and renorm only"
        require(of_the_batch or not self.noise, "norm.noise", rule, self.noise)
        fixed = self.affine == "fixed"
        require(of_the_batch or not fixed, "norm.affine", f"fixed {rule}", self.affine)
        require(self.group_size >= 1, "norm.group_size", ">= 1", self.group_size)
