# SPDX-License-Identifier: Apache-2.0
"""A benchmark."""

from typing import Literal

from experiments.config.fields import config
from experiments.config.ranges import (
    check_name_and_seed,
    require,
    require_at_least,
    require_below_limit,
)


@config()
class BenchConfig:
    """A benchmark of a layer, of a network's training step, or of whole runs."""

    name: str
    """Names the folder of the results, `runs/NAME`."""
    seed: int = 0
    """The seed of the input, in [0, 2**32)."""
    network: Literal["layer", "resnet18", "resnet50", "resnet101", "lab", "tracing"] = (
        "layer"
    )
    """What is timed. layer: batch norm alone; lab: training runs of the dense network
    of the studies; else a step of this network."""
    step: Literal["training", "inference"] = "training"
    """What of a residual network is timed; inference is timed with the norms folded
    into the kernels, too."""
    num_runs: int = 200
    """For lab only: at most 10, or a multiple of 10; ten seeds run side by side."""
    shape: tuple[int, ...] = (64, 56, 56, 64)
    """The input's shape: examples (an even number), height, width, channels; a layer
    may also be timed on examples and features alone."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The dtype of the computation; PyTorch is timed in float32 only."""
    rounds: int = 20
    """How often each library is timed, at least 1."""

    def __post_init__(self):
        """Checks the ranges."""
        check_name_and_seed(self.name, self.seed)
        require_at_least(self, "", rounds=1)
        num = self.num_runs
        fits = 1 <= num <= 10 or (num > 0 and num % 10 == 0)
        require(fits, "num_runs", "in [1, 10] or a multiple of 10", num)
        require_below_limit("num_runs", num)
        ranks = (2, 4) if self.network == "layer" else (4,)
        fits = len(self.shape) in ranks and min(self.shape) >= 1
        fits = fits and self.shape[0] % 2 == 0
        what = "four positive numbers (two for a layer), the first even"
        require(fits, "shape", what, self.shape)
        require_below_limit("shape", self.shape)
        fits = self.step == "training" or self.network.startswith("resnet")
        rule = f"training with network {self.network}"
        require(fits, "step", rule, self.step)
