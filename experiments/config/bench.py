# SPDX-License-Identifier: Apache-2.0
"""A benchmark of one layer or one network."""

import dataclasses
from typing import Literal

from experiments.config.ranges import check_name_and_seed, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """A benchmark of one layer, or of a network's training step."""

    name: str
    """Names the folder of the results, `runs/NAME`."""
    seed: int = 0
    """Of the input, in [0, 2**32)."""
    network: Literal["layer", "resnet18", "resnet50", "resnet101", "lab"] = "layer"
    """layer: batch norm alone; lab: whole runs of the studies' dense network."""
    num_runs: int = 200
    """Of lab: at most 10, or a multiple of 10, which are ten seeds side by side."""
    shape: tuple[int, int, int, int] = (64, 56, 56, 64)
    """Of the input: examples, an even number, height, width, channels."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the computation; PyTorch has its turn with a layer in float32 only."""
    rounds: int = 20
    """How often each library has its turn, at least 1."""

    def __post_init__(self):
        """Checks the ranges."""
        check_name_and_seed(self.name, self.seed)
        require(self.rounds >= 1, "rounds", ">= 1", self.rounds)
        num = self.num_runs
        fits = 1 <= num <= 10 or (num > 0 and num % 10 == 0)
        require(fits, "num_runs", "1 to 10, or a multiple of 10", num)
        fits = min(self.shape) >= 1 and self.shape[0] % 2 == 0
        require(fits, "shape", "positive, of an even number of examples", self.shape)
