# SPDX-License-Identifier: Apache-2.0
"""The test of a gap against its definition, its error rate, and the limits."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxbn._diagnosis.evidence import Call, Layer, Redrawn
from jaxbn._diagnosis.rules import (
    Context,
    Fixes,
    findings_of,
    gap_of,
    largest_ratio,
    ratios_of,
    variance_error,
)
from jaxbn._population.merging import Total

CONTEXT = Context(Fixes("estimate", "inference", "norm"), 1, 1, None)


def make_layer(
    rows, mean, var, *, epsilon=1e-5, unbiased=False, dtype="float32", redrawn=()
):
    """From the values of each batch, of shape (batches, values, features)."""
    size, features = rows.shape[1:]
    counts = np.full(features, float(size))

    def total(x):
        return Total(x.mean(0), x.var(0), counts)

    call = Call(
        (features,), size, np.dtype(dtype), True, 0.9, epsilon, unbiased, False,
        None, None,
    )  # fmt: skip
    every = rows.reshape(-1, features)
    return Layer(
        path="norm",
        mean=np.asarray(mean, float),
        var=np.asarray(var, float),
        scale=None,
        bias=None,
        call=call,
        batches=tuple(map(total, rows)),
        redrawn=tuple(
            Redrawn(total(before), total(after), number)
            for before, after, number in redrawn
        ),
        population=Total(every.mean(0), every.var(0), counts * len(rows)),
        not_finite=(),
    )


def test_distances_are_as_defined(rng):
    rows = rng.normal(3, 2, (6, 50, 4)) + rng.normal(0, 1, (6, 1, 4))
    mean, var = np.full(4, 4.0), np.full(4, 9.0)
    gap = gap_of(make_layer(rows, mean, var), 1)
    means, logs = rows.mean(1), np.log(rows.var(1) + 1e-5)
    unit = math.sqrt(1 + 1 / 6)
    wanted = (mean - means.mean(0)) / (means.std(0, ddof=1) * unit)
    np.testing.assert_allclose(gap.means, wanted, rtol=1e-12)
    noise = np.maximum(logs.std(0, ddof=1), math.sqrt(2 / 49))
    wanted = (np.log(9 + 1e-5) - logs.mean(0)) / (noise * unit)
    np.testing.assert_allclose(gap.variances, wanted, rtol=1e-2)
    assert gap.mean == np.median(np.abs(gap.means))


def test_the_limit_is_that_of_t_for_one_feature(rng):
    """One feature, one layer, two statistics, both sides."""
    gap = gap_of(make_layer(rng.normal(0, 1, (7, 50, 1)), [0], [1]), 1)
    wanted = stats.t.isf(1e-5 / 4, 6)
    np.testing.assert_allclose([gap.limit_mean, gap.limit_var], wanted, rtol=1e-6)
    wider = gap_of(make_layer(rng.normal(0, 1, (7, 50, 1)), [0], [1]), 100)
    np.testing.assert_allclose(wider.limit_mean, stats.t.isf(1e-7 / 4, 6), rtol=1e-6)


@pytest.mark.parametrize("features", [1, 3, 40])
@pytest.mark.parametrize("shared", [0.0, 3.0])
def test_error_rate(features, shared, rng):
    """The running statistics are those of one more batch: the worst healthy case."""
    alarms, times = 0, 300
    for _ in range(times):
        common = shared * rng.normal(0, 1, (6, 1, 1))
        rows = rng.normal(0, 1, (6, 20, features)) + common
        *rows, last = rows
        layer = make_layer(np.stack(rows), last.mean(0), last.var(0))
        gap = gap_of(layer, 1)
        alarms += gap.mean > gap.limit_mean or gap.var > gap.limit_var
    assert not alarms


NUMBER, POSITIONS, FEATURES = 8, 36, 6  # of images in a batch


def images(rng, number=NUMBER):
    """Positions of an image are alike: they are far fewer values than they seem."""
    of_image = rng.normal(0, 1, (number, 1, FEATURES))
    return of_image + rng.normal(0, 0.5, (number, POSITIONS, FEATURES))


def flat(x):
    return x.reshape(-1, FEATURES)


def healthy_and_faulty(rng, batches, *, redraw=True):
    """Whether there is an alarm, as after training and after a planted fault."""
    seen = np.stack([flat(images(rng)) for _ in range(30)])
    mean, var = seen.mean((0, 1)), seen.var(1).mean(0)
    rows = np.stack(list(map(flat, batches)))
    redrawn = [
        (flat(x), flat(x[rng.integers(0, len(x), len(x))]), len(x)) for x in batches
    ]
    for m, v in ((mean, var), (mean + 8 * np.sqrt(var), var), (mean, 100 * var)):
        layer = make_layer(rows, m, v, redrawn=redrawn if redraw else ())
        gap = gap_of(layer, 1)
        yield gap.mean > gap.limit_mean or gap.var > gap.limit_var


def of_the_same(rng):
    """The same images, changed a little each time, as by augmentation."""
    x = images(rng)
    return [x + 0.1 * rng.normal(0, 1, x.shape) for _ in range(8)]


@pytest.mark.parametrize("batches", [
    lambda rng: [images(rng) for _ in range(8)],
    of_the_same,
    lambda rng: [images(rng)] * 8,
    lambda rng: [x[rng.integers(0, 16, NUMBER)] for x in [images(rng, 16)] * 8],
], ids=["other images", "changed", "the same", "of few"])  # fmt: skip
def test_images_are_as_many_values_as_there_are_images(batches, rng):
    """20 healthy draws are no alarm; each planted fault is one."""
    for _ in range(20):
        assert list(healthy_and_faulty(rng, batches(rng))) == [False, True, True]


def test_positions_are_not_independent(rng):
    """Taken for as many values, they would make alarms of healthy networks."""
    alarms = [
        next(healthy_and_faulty(rng, of_the_same(rng), redraw=False)) for _ in range(20)
    ]
    assert sum(alarms) > 5


def test_bessels_correction_is_no_gap(rng):
    rows = rng.normal(0, 1, (40, 3, 60))
    unbiased = rows.reshape(-1, 60).var(0) * 1.5
    right = gap_of(make_layer(rows, np.zeros(60), unbiased, unbiased=True), 1)
    wrong = gap_of(make_layer(rows, np.zeros(60), unbiased), 1)
    assert right.factor < wrong.factor / 1.4


@pytest.mark.parametrize("var", [0.0, 1e-12, 3e-7, 0.9])
def test_constant_features_have_no_gap(var):
    """Such as those of a filter that is dead, or of an initial state of 0."""
    layer = make_layer(np.zeros((8, 64, 5)), np.zeros(5), np.full(5, var))
    gap = gap_of(layer, 1)
    assert gap.mean == gap.var == 0
    assert not [f for f in findings_of(layer, CONTEXT) if f.level != "information"]


def test_features_that_seldom_fire_are_information(rng):
    """They are silent in these batches, and were not in training."""
    rows = rng.normal(0, 1, (8, 64, 10))
    rows[:, :, :2] = 0
    mean, var = np.zeros(10), np.full(10, 1.01)
    mean[:2], var[:2] = 0.5, 2.0
    found = findings_of(make_layer(rows, mean, var), CONTEXT)
    gap, *_ = [f for f in found if f.check == "train/eval gap"]
    assert gap.level == "information" and "2 of 10 features" in gap.figure
    assert all(f.level == "information" for f in found)


def test_fewer_than_two_batches_show_no_gap(rng):
    assert gap_of(make_layer(rng.normal(0, 1, (1, 9, 2)), [5, 5], [5, 5]), 1) is None


def test_limits():
    assert variance_error(9.0) == 0.5 and variance_error(1.0) == math.inf
    assert largest_ratio("bfloat16") == 100
    assert largest_ratio("float32") == 1e3
    np.testing.assert_allclose(largest_ratio("float16"), 800)
    assert largest_ratio("float64") > 1e7


def test_mean_over_sd(rng):
    rows = 5 + rng.normal(0, 1, (4, 4000, 2)) * np.array([1, 1e-2])
    ratios = ratios_of(make_layer(rows, [5, 5], [1, 1], epsilon=0.0))
    np.testing.assert_allclose(ratios, [5, 500], rtol=0.05)
