# SPDX-License-Identifier: Apache-2.0
"""What a study asks: a claim, its measure, and the rule for its verdict."""

import dataclasses
from typing import Any, Literal

from experiments.config.ranges import require

Settings = tuple[tuple[str, Any], ...]
"""Names and values, such as `(("norm", "batch"), ("rate", (0.1, 1.0)))`; of a tuple,
any value fits."""


How = Literal["mean", "min", "max", "largest", "number"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """One number for each seed, of the runs that `where` picks."""

    column: str
    """Of the table of runs."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
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
        rule = "a ratio only of two measures, in times"
        fits = not of_ratio or (self.second is not None and self.unit == "times")
        require(fits, "effect", rule, self.effect)


@dataclasses.dataclass(frozen=True, kw_only=True)
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
    """Of the y axis."""
    percent: bool = False
    """The y axis is a fraction, shown in %."""
    log_x: bool = False
    caption: str
