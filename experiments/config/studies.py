# SPDX-License-Identifier: Apache-2.0
"""A study: the experiments it compares, its claims, and the rules that decide them."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from tyro.conf import Fixed

from experiments.config.experiment import ExperimentConfig
from experiments.config.fields import closest, config
from experiments.config.ranges import (
    check_name_and_seed,
    require,
    require_at_least,
)

Settings = tuple[tuple[str, Any], ...]
"""Names and values, such as `(("norm", "batch"), ("rate", 0.1))`. Where runs are
picked, a tuple of values stands for any of them."""
Changes = Mapping[str, Any]
"""New values by dotted field, such as `{"norm.kind": "none"}`."""
Corruption = Literal["noise", "blur", "contrast", "shift"]
How = Literal["mean", "min", "max", "largest", "number"]


@config()
class AdaptationConfig:
    """The images that a trained network is tested on, and the statistics it uses."""

    corruption: Corruption
    """What is done to the test images."""
    severity: int
    """How strongly, from 0 (the images stay as they are) to 5."""
    batch_size: int | None = None
    """Unlabelled test images that each adaptation of the statistics sees, at least 2.
    None: the network keeps the statistics of training."""
    prior_count: float = 0.0
    """How many images the statistics of training weigh in an adaptation, at least 0."""

    def __post_init__(self):
        """Checks the ranges."""
        require(0 <= self.severity <= 5, "severity", "in [0, 5]", self.severity)
        require_at_least(self, "", batch_size=2, prior_count=0)


@config()
class Variant:
    """An experiment, and the settings that tell it from the others of its study."""

    settings: Settings
    experiment: ExperimentConfig
    adaptation: AdaptationConfig | None = None
    """For the probe `adaptation` only."""


def changed(experiment: ExperimentConfig, changes: Changes) -> ExperimentConfig:
    """Returns the experiment with these fields changed.

    Raises:
        ValueError: there is no such field.
    """
    known = list(_names(experiment))
    parts: dict[str, Any] = {}
    for field, value in changes.items():
        rule = "the dotted name of a field, such as norm.kind"
        require(field in known, "changes", rule, field, fix=closest(field, known))
        part, _, name = field.partition(".")
        if name:
            parts.setdefault(part, {})[name] = value
        else:
            parts[part] = value
    for part, fields in parts.items():
        if isinstance(fields, dict):
            parts[part] = dataclasses.replace(getattr(experiment, part), **fields)
    return dataclasses.replace(experiment, **parts)


def _names(made: Any, prefix: str = "") -> Iterator[str]:
    """Yields the dotted names of a config's fields."""
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if dataclasses.is_dataclass(value):
            yield from _names(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def values(field: str, options: Iterable[Any]) -> dict[Any, Changes]:
    """Returns an axis of a grid: one field, and its values."""
    return {option: {field: option} for option in options}


def grid(
    experiment: ExperimentConfig, axes: Mapping[str, Mapping[Any, Changes]]
) -> tuple[Variant, ...]:
    """Returns a variant for each combination of one option of every axis.

    Args:
        experiment: what they have in common.
        axes: by the name of the setting, its options, and what each changes; where two
            axes change the same field, the later one counts.
    """
    variants = []
    for chosen in itertools.product(*(options.items() for options in axes.values())):
        changes = {k: v for _, change in chosen for k, v in change.items()}
        settings = tuple(zip(axes, (option for option, _ in chosen), strict=True))
        variants.append(
            Variant(settings=settings, experiment=changed(experiment, changes))
        )
    return tuple(variants)


@config()
class Measure:
    """One number for each seed, of the runs that `where` picks."""

    column: str
    """A column of the table of runs."""
    where: Settings = ()
    how: How = "mean"
    """mean, min, max of the column over the runs; largest: value of the setting
    `along` whose run reaches `reaching`; number: how many runs do."""
    along: str = ""
    reaching: float = 0.0

    def picks(self, settings: dict[str, Any]) -> bool:
        """Whether the run with these settings is one of them."""
        return all(
            settings.get(name) in (value if isinstance(value, tuple) else (value,))
            for name, value in self.where
        )


@config()
class Claim:
    """A sentence that can be wrong, and the rule that says whether it is.

    The effect is `first` minus `second`, or the first divided by the second, for each
    seed; without a second, the first alone. Supported: the bootstrap 95 % interval of
    its mean over the seeds (the geometric mean of a ratio) lies at or above `at_least`;
    not supported: below; else undecided.
    """

    text: str
    """The claim, one sentence."""
    source: str
    """Who says so, with an address."""
    first: Measure
    second: Measure | None = None
    effect: Literal["difference", "ratio"] = "difference"
    at_least: float
    says: str
    """What the effect is, in words, as in `accuracy with minus without`."""
    unit: Literal["points", "times", "decades", ""] = ""
    """points: percentage points of a fraction; decades: of half decades."""

    def __post_init__(self):
        """Checks what belongs together."""
        of_ratio = self.effect == "ratio"
        rule = "a difference, unless there are two measures and the unit is times"
        fits = not of_ratio or (self.second is not None and self.unit == "times")
        require(fits, "effect", rule, self.effect)


@config()
class FigureConfig:
    """The one figure of a study: means over seeds with their 95 % intervals."""

    x: str
    """The setting along the axis."""
    y: str
    """The column of the table of runs."""
    lines: str
    """The setting that has a line for each value."""
    panels: str = ""
    """The setting that has a panel for each value; empty: one panel."""
    label: str
    """The y axis's label."""
    percent: bool = False
    """The y axis is a fraction, shown in %."""
    log_x: bool = False
    caption: str


@config()
class StudyConfig:
    """A study: variants, each trained with every seed, and the claims they decide.

    The question and the rules are fixed here, before the study runs; the command line
    changes only the seeds and where it runs.
    """

    name: Fixed[str]
    """Names the folder of the results, `runs/lab/NAME`."""
    title: Fixed[str] = ""
    variants: Fixed[tuple[Variant, ...]]
    claims: Fixed[tuple[Claim, ...]]
    figure: Fixed[FigureConfig]
    probe: Fixed[Literal["scores", "inference", "shift", "adaptation", "cost"]] = (
        "scores"
    )
    """What is measured. scores: accuracy and loss at the end, steps to some accuracies;
    inference: the same by other statistics too; shift: how layers' inputs move;
    adaptation: accuracy on corrupted images, the statistics kept or adapted to them;
    cost: time and memory of a training step, in `num_seeds` rounds."""
    num_seeds: int = 10
    """Runs of each variant, paired by seed, at least 1; a verdict needs at least 10."""
    first_seed: int = 0
    """The first seed; the others follow it."""
    num_workers: int | None = None
    """Variants that run at once; None: as many as there are cores. Where time is
    measured it must be 1."""

    @property
    def images(self) -> str:
        """The data set of the first variant; all have the same."""
        return self.variants[0].experiment.data.name

    @property
    def seeds(self) -> range:
        """The seeds of every variant."""
        return range(self.first_seed, self.first_seed + self.num_seeds)

    def __post_init__(self):
        """Checks the ranges, and that the claims and the figure fit the variants."""
        check_name_and_seed(self.name, self.first_seed, field="first_seed")
        require_at_least(self, "", num_seeds=1, num_workers=1)
        most, num = 2**32 - self.first_seed, self.num_seeds
        require(num <= most, "num_seeds", f"at most {most} after first_seed", num)
        settings = [dict(variant.settings) for variant in self.variants]
        repeated = [one for one in settings if settings.count(one) > 1]
        rule = "one or more, each with other settings"
        require(settings and not repeated, "variants", rule, repeated)
        names = set(settings[0])
        others = [set(one) for one in settings if set(one) != names]
        rule = f"variants with the settings {sorted(names)}, like the first"
        require(not others, "variants", rule, others)
        for variant in self.variants:
            loop = variant.experiment.train
            steps, rule = loop.total_steps, "a multiple of train.eval_every"
            require(steps % loop.eval_every == 0, "train.num_steps", rule, steps)
            adapts = variant.adaptation is not None
            rule = "given for the probe adaptation, and for no other"
            fits = adapts == (self.probe == "adaptation")
            require(fits, "adaptation", rule, variant.adaptation)
        for claim in self.claims:
            for measure in filter(None, (claim.first, claim.second)):
                self._check_measure(measure, settings)
        shown = {self.figure.x, self.figure.lines, self.figure.panels or self.figure.x}
        rule = f"drawn over the settings {sorted(names)}"
        require(shown <= names, "figure", rule, shown)

    def _check_measure(self, measure: Measure, settings: list[dict[str, Any]]) -> None:
        found = any(measure.picks(one) for one in settings)
        require(found, "where", "a choice of at least one variant", measure.where)
        fits = not measure.along or measure.along in settings[0]
        require(
            fits, "along", f"one of the settings {list(settings[0])}", measure.along
        )
