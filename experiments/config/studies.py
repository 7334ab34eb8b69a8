# SPDX-License-Identifier: Apache-2.0
"""The studies."""

import dataclasses
from typing import Literal

from experiments.config.claims import Claim, FigureConfig, Measure
from experiments.config.experiment import ExperimentConfig
from experiments.config.ranges import check_name_and_seed, require
from experiments.config.variants import Variant


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A study: variants, each trained with every seed, and the claims they decide.

    What is asked and the rules are fixed here, before it runs; the command line changes
    only how often and where.
    """

    name: str
    """Names the folder of the results, `runs/lab/NAME`."""
    title: str = ""
    variants: tuple[Variant, ...]
    claims: tuple[Claim, ...]
    figure: FigureConfig
    probe: Literal["scores", "inference", "shift", "cost"] = "scores"
    """What is measured. scores: accuracy and loss at the end, steps to some accuracies;
    inference: the same by other statistics too; shift: how layers' inputs move;
    cost: time and memory of a training step, `num_seeds` rounds in turn."""
    num_seeds: int = 10
    """Runs of each variant, paired by seed, at least 1; verdicts take 10 or more."""
    first_seed: int = 0
    """The others follow it."""
    num_workers: int | None = None
    """Variants that run at once; None: as many as there are cores, where time is not
    what is measured."""

    @property
    def seeds(self) -> range:
        """The seeds of every variant."""
        return range(self.first_seed, self.first_seed + self.num_seeds)

    def __post_init__(self):
        """Checks the ranges, and that the claims and the figure fit the variants."""
        check_name_and_seed(self.name, self.first_seed)
        require(self.num_seeds >= 1, "num_seeds", ">= 1", self.num_seeds)
        workers = self.num_workers
        require(workers is None or workers >= 1, "num_workers", ">= 1", workers)
        settings = [dict(variant.settings) for variant in self.variants]
        distinct = len(set(map(repr, settings))) == len(settings) > 0
        require(distinct, "variants", "distinct, at least one", len(settings))
        names = set(settings[0])
        same = all(set(one) == names for one in settings)
        require(same, "variants", "of the same settings", sorted(names))
        for variant in self.variants:
            loop = variant.experiment.train
            whole = loop.num_steps % loop.eval_every == 0
            rule = "divided by train.eval_every"
            require(whole, "train.num_steps", rule, loop.num_steps)
        for claim in self.claims:
            for measure in filter(None, (claim.first, claim.second)):
                self._check_measure(measure, settings)
        shown = {self.figure.x, self.figure.lines, self.figure.panels or self.figure.x}
        require(shown <= names, "figure", f"of settings {sorted(names)}", shown)

    def _check_measure(self, measure: Measure, settings: list[dict]) -> None:
        found = any(measure.picks(one) for one in settings)
        require(found, "where", "that of at least one variant", measure.where)
        along = not measure.along or measure.along in settings[0]
        require(along, "along", "a setting", measure.along)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationStudy:
    """Test-time adaptation to corrupted images."""

    name: str
    """Names the folder of the results, `runs/NAME`."""
    num_seeds: int = 5
    """Training runs, by seeds from 0, at least 1."""
    experiment: ExperimentConfig
    """What is trained; its own seed is not used."""
    batch_size: int = 36
    """Unlabelled test images that each adaptation sees, at least 2."""
    prior_counts: tuple[float, ...] = (0.0, 16.0)
    """How many images the statistics of training weigh, at least 0 each."""

    def __post_init__(self):
        """Checks the ranges."""
        check_name_and_seed(self.name, 0)
        require(self.num_seeds >= 1, "num_seeds", ">= 1", self.num_seeds)
        require(self.batch_size >= 2, "batch_size", ">= 2", self.batch_size)
        least = min(self.prior_counts, default=-1)
        require(least >= 0, "prior_counts", ">= 0, at least one", self.prior_counts)
