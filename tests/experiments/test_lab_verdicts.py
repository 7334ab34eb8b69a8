# SPDX-License-Identifier: Apache-2.0
"""Rules applied to tables whose verdict is known."""

import numpy as np
import pytest

from experiments.config import Claim, Measure
from experiments.lab.verdicts import bootstrap, decide, effects_of, rule, value


def rows_of(first, second, name="norm"):
    """Two runs a seed."""
    table = []
    for seed, pair in enumerate(zip(first, second, strict=True)):
        for norm, accuracy in zip(("batch", "none"), pair, strict=True):
            table.append({name: norm, "seed": seed, "accuracy": accuracy})
    return table


def claim(at_least, **fields):
    measures = (
        Measure(column="accuracy", where=(("norm", norm),))
        for norm in ("batch", "none")
    )
    first, second = measures
    return Claim(
        text="It is better.",
        source="nobody",
        says="with minus without",
        at_least=at_least,
        **({"first": first, "second": second, "unit": "points"} | fields),
    )


def better_by(mean, num=12, spread=0.01):
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.9, num)  # seeds differ more than the effect: pairs count
    noise = rng.normal(0, spread, num)
    return rows_of(base + mean + noise - noise.mean(), base)


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [(0.05, "supported"), (0.0, "not supported"), (0.02, "undecided")],
)
def test_three_outcomes(mean, verdict):
    found = decide(claim(2.0), better_by(mean))
    assert found.verdict == verdict
    assert found.effect == pytest.approx(100 * mean, abs=1e-9)
    assert found.low < found.effect < found.high and found.num_seeds == 12


def test_the_limit_itself_supports():
    assert decide(claim(5.0), rows_of([0.75] * 10, [0.7] * 10)).verdict == "supported"


def test_few_seeds_and_numbers_that_are_none_decide_nothing():
    assert decide(claim(2.0), better_by(0.05, num=9)).verdict == "undecided"
    broken = better_by(0.05)
    broken[0]["accuracy"] = float("nan")
    assert decide(claim(2.0), broken).verdict == "undecided"


def test_a_ratio_is_a_geometric_mean():
    table = rows_of([2.0, 8.0] * 5, [1.0] * 10)
    found = decide(claim(3.0, effect="ratio", unit="times"), table)
    assert found.effect == pytest.approx(4.0)
    assert 2 < found.low < 4 < found.high < 8


def test_seeds_that_lack_a_run_are_left_out():
    table = better_by(0.05)
    assert len(effects_of(claim(2.0), table[:-1])) == 11


@pytest.mark.parametrize(
    ("how", "expected"),
    [("mean", 0.6), ("min", 0.2), ("max", 0.95), ("largest", 1.0), ("number", 2)],
)
def test_measures(how, expected):
    accuracies = {0.1: 0.95, 1.0: 0.91, 10.0: 0.34, 100.0: 0.2}
    table = [
        {"rate": rate, "norm": "batch", "accuracy": accuracy}
        for rate, accuracy in accuracies.items()
    ]
    other = {"rate": 1000.0, "norm": "none", "accuracy": 1.0}
    measure = Measure(
        column="accuracy",
        where=(("norm", ("batch", "layer")),),
        how=how,
        along="rate",
        reaching=0.9,
    )
    assert value(measure, [*table, other]) == pytest.approx(expected)
    assert value(measure, [other]) is None


def test_where_nothing_reaches_the_least_stands():
    table = [{"rate": rate, "accuracy": 0.1} for rate in (0.1, 1.0)]
    measure = Measure(column="accuracy", how="largest", along="rate", reaching=0.9)
    assert value(measure, table) == 0.1


def test_the_interval_is_about_that_of_the_normal_distribution():
    effects = np.random.default_rng(1).normal(3, 2, 400)
    mean, low, high = bootstrap(effects)
    half = 1.96 * effects.std() / 20
    assert mean == pytest.approx(effects.mean())
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.1)
    assert bootstrap(effects) == (mean, low, high)  # the same again


def test_the_rule_in_words():
    assert rule(claim(2.0)) == (
        "supported if the bootstrap 95 % interval lies at or above 2 points, not "
        "supported if below, else undecided; at least 10 seeds"
    )


def test_a_ratio_needs_two_measures():
    with pytest.raises(
        ValueError,
        match="`effect` must be a difference, unless there are two measures and",
    ):
        claim(1.0, effect="ratio")
