# SPDX-License-Identifier: Apache-2.0
"""The studies."""

import dataclasses

from experiments.config.experiment import ExperimentConfig
from experiments.config.ranges import check_name_and_seed, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What every study has; each kind adds its own."""

    name: str
    """Names the folder of the results, `runs/NAME`."""
    num_seeds: int = 5
    """Training runs of each variant, by seeds from 0, at least 1."""
    experiment: ExperimentConfig
    """What is trained; its own seed is not used."""

    def __post_init__(self):
        """Checks the ranges."""
        check_name_and_seed(self.name, 0)
        require(self.num_seeds >= 1, "num_seeds", ">= 1", self.num_seeds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationStudy(StudyConfig):
    """Test-time adaptation to corrupted images."""

    batch_size: int = 36
    """Unlabelled test images that each adaptation sees, at least 2."""
    prior_counts: tuple[float, ...] = (0.0, 16.0)
    """How many images the statistics of training weigh, at least 0 each."""

    def __post_init__(self):
        """Checks the ranges."""
        super().__post_init__()
        require(self.batch_size >= 2, "batch_size", ">= 2", self.batch_size)
        least = min(self.prior_counts, default=-1)
        require(least >= 0, "prior_counts", ">= 0, at least one", self.prior_counts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceStudy(StudyConfig):
    """Evaluation early in training, by running and by population statistics."""

    steps: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500)
    """After which steps the networks are evaluated, increasing, from 1."""

    def __post_init__(self):
        """Checks the ranges."""
        super().__post_init__()
        fits = self.steps and min(self.steps) >= 1
        fits = bool(fits and list(self.steps) == sorted(set(self.steps)))
        require(fits, "steps", "increasing, from 1", self.steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSizeStudy(StudyConfig):
    """Test error by batch size, with several norms."""

    batch_sizes: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Each trains on as many examples in all, at least 2 each, and divides the
    experiment's; the learning rate is in proportion to it."""

    def __post_init__(self):
        """Checks the ranges."""
        super().__post_init__()
        least = min(self.batch_sizes, default=0)
        require(least >= 2, "batch_sizes", ">= 2, at least one", self.batch_sizes)
        whole = self.experiment.data.batch_size
        divide = all(whole % size == 0 for size in self.batch_sizes)
        rule = f"divisors of experiment.data.batch_size, {whole}"
        require(divide, "batch_sizes", rule, self.batch_sizes)
