# SPDX-License-Identifier: Apache-2.0
"""From the table of runs to a verdict: effects by seed, their interval, the rule."""

from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.config import Claim, Measure
from experiments.lab.runs_table import SEED, Row

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
MIN_SEEDS = 10
RESAMPLES = 10_000
SCALES = {"points": 100.0, "decades": 0.5}  # from an effect to its unit


class Verdict(NamedTuple):
    """The verdict on a claim; effect and interval are in its unit."""

    claim: Claim
    effect: float
    low: float
    high: float
    num_seeds: int
    verdict: str

    def as_json(self, study: str, images: str) -> dict[str, Any]:
        """Returns the verdict with its claim and its rule in words."""
        return {
            "study": study,
            "images": images,
            "claim": self.claim.text,
            "source": self.claim.source,
            "effect_is": self.claim.says,
            "rule": rule(self.claim),
            "at_least": self.claim.at_least,
            "effect": self.effect,
            "interval": [self.low, self.high],
            "unit": self.claim.unit,
            "seeds": self.num_seeds,
            "verdict": self.verdict,
        }


def decide(claim: Claim, rows: list[Row]) -> Verdict:
    """Applies the claim's rule to the runs."""
    effects = effects_of(claim, rows)
    mean, low, high = bootstrap(effects)
    if not len(effects) >= MIN_SEEDS or not np.isfinite([low, high]).all():
        verdict = UNDECIDED
    else:
        threshold = at_least(claim)
        verdict = UNDECIDED if low < threshold <= high else NOT_SUPPORTED
        verdict = SUPPORTED if low >= threshold else verdict
    show = np.exp if claim.effect == "ratio" else lambda v: v * _scale(claim)
    mean, low, high = (float(show(value)) for value in (mean, low, high))
    return Verdict(claim, mean, low, high, len(effects), verdict)


def effects_of(claim: Claim, rows: list[Row]) -> np.ndarray:
    """Returns the effect for each seed that has all runs; of a ratio, its logarithm.

    Effects are paired: both measures are of one seed, with the same data order.
    """
    effects = []
    for seed in sorted({row[SEED] for row in rows}):
        of_seed = [row for row in rows if row[SEED] == seed]
        first = value(claim.first, of_seed)
        second = 0.0 if claim.second is None else value(claim.second, of_seed)
        if first is None or second is None:
            continue
        of_ratio = claim.effect == "ratio"
        effects.append(np.log(first / second) if of_ratio else first - second)
    return np.asarray(effects, float)


def value(measure: Measure, rows: list[Row]) -> float | None:
    """Returns the measure, given the runs of one seed; None if it picks none."""
    rows = [row for row in rows if measure.picks(row)]
    if not rows:
        return None
    column = np.asarray([row[measure.column] for row in rows], float)
    reached = [
        row for row, v in zip(rows, column, strict=True) if v >= measure.reaching
    ]
    match measure.how:
        case "largest":
            along = [row[measure.along] for row in reached]
            # If no run does, the smallest value, so that a ratio errs towards 1.
            return max(along, default=min(row[measure.along] for row in rows))
        case "number":
            return len(reached)
        case "min":
            return float(column.min())
        case "max":
            return float(column.max())
        case _:
            return float(column.mean())


def bootstrap(effects: np.ndarray) -> tuple[float, float, float]:
    """Returns the mean, and both ends of its percentile bootstrap 95 % interval."""
    mean = float(np.mean(effects)) if len(effects) else float("nan")
    if len(effects) < 2 or np.ptp(effects) == 0 or not np.isfinite(mean):
        return mean, mean, mean
    interval = stats.bootstrap(
        (effects,),
        np.mean,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return mean, float(interval.low), float(interval.high)


def at_least(claim: Claim) -> float:
    """Returns the claim's limit on the scale of the effects."""
    if claim.effect == "ratio":
        return float(np.log(claim.at_least))
    return claim.at_least / _scale(claim)


def rule(claim: Claim) -> str:
    """Returns the claim's rule in words."""
    limit = f"{claim.at_least:g} {claim.unit}".strip()
    return (
        f"supported if the bootstrap 95 % interval lies at or above {limit}, not "
        f"supported if below, else undecided; at least {MIN_SEEDS} seeds"
    )


def _scale(claim: Claim) -> float:
    return SCALES.get(claim.unit, 1.0)
