# SPDX-License-Identifier: Apache-2.0
"""The checks of a layer: from evidence to findings, in NumPy, in float64.

A warning or an error needs arithmetic or a test that knows the size of the sample;
what is contested, or common practice, is information.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

from jaxbn._diagnosis.evidence import Layer
from jaxbn._population.merging import Total, Values

Level = Literal["error", "warning", "information"]
ERROR_RATE = 1e-5
"""The probability that any layer of a healthy model is reported to have a gap.

Small, since batches are seldom normal, and are often more alike than those of training.
"""
START = 0.01
"""The weight of the initial 0 and 1 above which they still matter."""
LARGEST_ERROR = 0.55
"""Of a variance, relative: above, the batch has fewer than 8 values."""
NEGLIGIBLE = 0.01
"""Of the deviation or the variance: what no batch is large enough to make matter."""
NEAR_ZERO = 1e-3
FLOAT32 = float(np.finfo(np.float32).eps)


class Finding(NamedTuple):
    """One thing that a check has found.

    Attributes:
        level: `error`: exact, and wrong in any case; `warning`: likely to cost
            accuracy; `information`: contested or common practice, no alarm.
        layer: the path of the batch norm, `.` for the model itself.
        check: the name of the check.
        figure: what was measured.
        ground: the arithmetic or the paper that makes it a fault.
        fix: the line of code that repairs it.
    """

    level: Level
    layer: str
    check: str
    figure: str
    ground: str
    fix: str


class Fixes(NamedTuple):
    """Lines of code that differ between Linen and NNX."""

    estimate: str
    inference: str
    norm: str  # the import of ours


class Context(NamedTuple):
    """What the rules know besides a layer."""

    fixes: Fixes
    num_layers: int
    num_features: int  # of all layers
    steps: int | None


class StatisticsGap(NamedTuple):
    """How far the running statistics are from those of the batches.

    The unit is the standard error of predicting one further batch. Medians over the
    features.

    Attributes:
        mean: the distance of the running mean.
        var: that of the logarithm of the running variance.
        limit_mean: what the test allows.
        limit_var: likewise.
        means: the distance of each feature, with its sign where it is real.
        variances: likewise.
        batches: the same two of each batch, from all of them together.
        factor: the median of running over population variance.
    """

    mean: float
    var: float
    limit_mean: float
    limit_var: float
    means: Values
    variances: Values
    batches: tuple[Values, Values]
    factor: float


def gap_of(layer: Layer, num_layers: int) -> StatisticsGap | None:
    """Tests whether the running statistics could be those of one further batch.

    As Dempster (1958) for many correlated variables: the mean square is compared with
    the F distribution of as many degrees of freedom as there are independent features,
    here estimated from the correlation of the batches. The median stands for the mean,
    so that a few features that hardly ever fire decide nothing. A constant feature has
    no gap of the variance: its output is the same by any. None for fewer than two
    batches, and where the running statistics are not finite.

    The noise of a batch is that between batches or, in a layer where it is larger, that
    between examples (by Efron's bootstrap, 1979): batches may share examples, or be
    changes of the same ones. It is at least that of as many independent values.
    """
    count = len(layer.batches)
    finite = np.all(np.isfinite(layer.mean) & np.isfinite(layer.var))
    if count < 2 or not finite or not layer.var.size:
        return None
    floor = layer.epsilon + float(np.finfo(np.float32).tiny)
    unbiased = layer.call is not None and layer.call.unbiased

    def mean_of(total: Total) -> Values:
        return total.mean

    def var_of(total: Total) -> Values:
        n = np.maximum(total.count, 2)
        return total.var * n / (n - 1) if unbiased else total.var

    def logs_of(total: Total) -> Values:
        return np.log(var_of(total) + floor)

    mean, var, logs = (
        np.stack([of(total) for total in layer.batches])
        for of in (mean_of, var_of, logs_of)
    )
    n = np.maximum([total.count for total in layer.batches], 2)
    center = layer.population.mean
    spread = np.mean(var, 0) + np.var(mean, 0)
    size = np.exp(np.mean(np.log(n), 0))
    deviation = np.sqrt(np.maximum(spread, np.maximum(layer.var, 0)) + floor)
    least_mean = np.maximum(np.sqrt(spread / size), NEGLIGIBLE * deviation)
    least_mean += FLOAT32 * np.abs(center)
    least_var = np.sqrt(2 / (size - 1)) * spread / (spread + floor)
    least_var = np.maximum(least_var, NEGLIGIBLE)
    noise_mean, limit_mean = _noise(
        mean, _redrawn(layer, mean_of), least_mean, num_layers
    )
    noise_var, limit_var = _noise(logs, _redrawn(layer, logs_of), least_var, num_layers)
    means = _signed(layer.mean - center) / noise_mean
    moved = np.log(np.maximum(layer.var, 0) + floor) - np.mean(logs, 0)
    moved = np.where(spread > NEGLIGIBLE**2 * floor, moved, 0)
    return StatisticsGap(
        mean=float(np.median(np.abs(means))),
        var=float(np.median(np.abs(moved / noise_var))),
        limit_mean=limit_mean,
        limit_var=limit_var,
        means=means,
        variances=moved / noise_var,
        batches=(
            _signed(mean - center) / noise_mean,
            (logs - np.mean(logs, 0)) / noise_var,
        ),
        factor=float(np.exp(np.median(moved))),
    )


def _redrawn(layer: Layer, of: Callable[[Total], Values]) -> Values:
    """How far a statistic of each batch goes when its examples are redrawn.

    Multiplied by sqrt(B / (B - 1)), since B examples have 1 / B less than the variance
    of those they come from.
    """
    return np.array([
        (of(after) - of(before)) * math.sqrt(size / (size - 1))
        for before, after, size in layer.redrawn
    ])  # fmt: skip


def _noise(
    rows: Values, changes: Values, least: Values, num_layers: int
) -> tuple[Values, float]:
    """The standard error of predicting one further batch, and what the test allows."""
    noise, source = np.std(rows, 0, ddof=1), rows
    if len(changes) > 1:
        of_examples = np.sqrt(np.mean(np.abs(changes) ** 2, 0))
        if np.median(of_examples) > np.median(noise):
            noise, source = of_examples, changes
    # The mean of the batches is not exact either.
    unit = math.sqrt(1 + 1 / len(rows))
    return np.maximum(noise, least) * unit, _limit(source, num_layers)


def _signed(value: Values) -> Values:
    """Of complex numbers, the distance."""
    return np.abs(value) if np.iscomplexobj(value) else value


def _safe(value: Values) -> Values:
    return np.maximum(value, np.finfo(np.float64).tiny)


def _limit(rows: Values, num_layers: int) -> float:
    """What the median distance may be, of rows of one batch each."""
    count = len(rows)
    rows = rows.reshape(count, -1)
    rows = (rows - rows.mean(0)) / _safe(rows.std(0))
    gram = np.real(rows @ rows.conj().T)
    trace, square = float(np.trace(gram)), float(np.sum(gram**2))
    independent = max(trace**2 / square, 1.0) if square > 0 else 1.0
    # Two statistics a layer.
    rate = 1 - ERROR_RATE / (2 * num_layers)
    limit = special.fdtri(independent, independent * (count - 1), rate)
    return math.sqrt(float(limit))


def findings_of(layer: Layer, context: Context) -> list[Finding]:
    """What the checks find in a layer."""
    found: list[Finding] = []

    def say(level: Level, check: str, figure: str, ground: str, fix: str) -> None:
        found.append(Finding(level, layer.path, check, figure, ground, fix))

    for rule in RULES:
        for finding in rule(layer, context):
            say(*finding)
    return found


Found = tuple[Level, str, str, str, str]


def _statistics(layer: Layer, context: Context) -> Iterator[Found]:
    """Exact faults of the running statistics."""
    fix, size = context.fixes.estimate, layer.var.size
    bad = ~(np.isfinite(layer.mean) & np.isfinite(layer.var))
    if np.any(bad):
        figure = f"the running statistics of {_some(bad)} are NaN or infinite"
        yield "error", "statistics", figure, "exact: inference is not finite", fix
    negative = layer.var < 0
    if np.any(negative):
        lowest = float(np.min(layer.var[negative]))
        figure = f"the running variance of {_some(negative)} is negative ({lowest:.3g})"
        ground = "exact: a variance is at least 0; its root is NaN in inference"
        yield "error", "statistics", figure, ground, fix
    still = _still(layer)
    if np.any(still) and size:
        figure = f"the running statistics of {_some(still)} are exactly 0 and 1"
        ground = "exact: they have never moved; inference does not normalize"
        yield "error", "statistics", figure, ground, fix


def _still(layer: Layer) -> Values:
    """Features whose running statistics are those of the start."""
    return (layer.mean == 0) & (layer.var == 1)


def _input(layer: Layer, context: Context) -> Iterator[Found]:
    """Activations that are not finite although the batches are."""
    if layer.not_finite:
        batches = ", ".join(map(str, layer.not_finite[:5]))
        figure = f"the input is NaN or infinite in {len(layer.not_finite)} batches "
        figure += f"({batches}{', ...' if len(layer.not_finite) > 5 else ''})"
        ground = "exact: the batches are finite, so a layer before this one overflows"
        fix = "jax.config.update('jax_debug_nans', True)  # names the operation"
        yield "error", "input", figure, ground, fix


def _gap(layer: Layer, context: Context) -> Iterator[Found]:
    """Running against population statistics."""
    gap = gap_of(layer, context.num_layers)
    if gap is None or np.any(layer.var < 0) or np.all(_still(layer)):
        return  # found by an exact check
    size, count = layer.num_values or 0, len(layer.batches)
    if gap.mean > gap.limit_mean or gap.var > gap.limit_var:
        parts = [
            f"{name} {_number(value)} (at most {_number(limit)})"
            for name, value, limit in (
                ("mean", gap.mean, gap.limit_mean),
                ("variance", gap.var, gap.limit_var),
            )
            if value > limit
        ]
        figure = (
            "running statistics against those of the batches, median over the features "
            f"in deviations of one batch: {', '.join(parts)}; the variance is "
            f"{_number(gap.factor)} times that of {count} batches of {size:g} values"
        )
        ground = (
            "no batch differs so much from the others (F test, error rate "
            f"{ERROR_RATE:g} for the whole model); Wu & Johnson 2021, arXiv:2105.07576"
        )
        yield "warning", "train/eval gap", figure, ground, context.fixes.estimate
        return
    rate = ERROR_RATE / (4 * max(context.num_features, 1))
    limit = float(-special.stdtrit(count - 1, rate))
    farthest = np.maximum(np.abs(gap.means), np.abs(gap.variances))
    outside = farthest > limit
    if np.any(outside):
        worst = float(np.max(farthest))
        figure = (
            f"the running statistics of {_some(outside)} are up to {_number(worst)} "
            "deviations of one batch from those of the batches"
        )
        ground = (
            f"above {_number(limit)} (t test of {count} batches); features "
            "that seldom fire look like this too"
        )
        yield "information", "train/eval gap", figure, ground, context.fixes.estimate


def _momentum(layer: Layer, context: Context) -> Iterator[Found]:
    """The start still weighs momentum^steps."""
    call, steps = layer.call, context.steps
    if call is None or steps is None or call.momentum is None or call.forgets_start:
        return
    weight = call.momentum**steps
    if weight > START:
        figure = (
            f"momentum {call.momentum:g} after {steps} steps: the initial 0 and 1 "
            f"still weigh {100 * weight:.3g} %"
        )
        ground = f"arithmetic: momentum^steps > {100 * START:g} %"
        fix = "BatchNorm(debias=True)"
        fix = fix if call.is_own else f"{context.fixes.norm}; {fix}"
        fits = math.floor(1000 * START ** (1 / steps)) / 1000 if steps else 0
        fix += f"  # or momentum={fits:g}" if fits else ""
        yield "warning", "momentum", figure, ground, fix


def variance_error(num_values: float) -> float:
    """The relative standard error of the variance of this many normal values."""
    return math.sqrt(2 / (num_values - 1)) if num_values > 1 else math.inf


def _batch_size(layer: Layer, context: Context) -> Iterator[Found]:
    """Too few values for a variance."""
    size = layer.num_values
    if size is None or variance_error(size) <= LARGEST_ERROR:
        return
    figure = f"{size:g} values that count per feature: the variance has a relative "
    figure += f"error of {100 * variance_error(size):.0f} %"
    ground = "arithmetic: sqrt(2 / (n - 1)); Wu & He 2018, arXiv:1803.08494"
    fix = 'BatchNorm(axis_name="batch")  # or a larger batch, or BatchRenorm'
    level: Level = "warning"
    if size <= 1:
        level = "error"
        figure = "1 value per feature: it is normalized to 0, whatever it is"
        ground = "exact: a single value is its own mean"
    yield level, "batch size", figure, ground, fix


def ratios_of(layer: Layer) -> Values:
    """Mean over deviation of each feature, epsilon included."""
    measured = bool(layer.batches)
    mean, var = layer.population[:2] if measured else (layer.mean, layer.var)
    least = layer.epsilon + float(np.finfo(np.float32).tiny)
    return np.abs(mean) / np.sqrt(np.maximum(var, 0) + least)


def largest_ratio(dtype: Any) -> float:
    """Above which digits are lost: 1e3 in float32, 100 in bfloat16.

    Either the input's own rounding is a large part of its deviation, or the difference
    of the mean square and the squared mean, in float32 or wider, has few digits left.
    """
    from jax.numpy import finfo

    own = float(finfo(dtype).eps)
    return min(0.78125 / own, 1e3 * math.sqrt(FLOAT32 / min(own, FLOAT32)))


def _ratio(layer: Layer, context: Context) -> Iterator[Found]:
    """A mean that is large for its deviation."""
    call = layer.call
    if call is None or np.issubdtype(call.dtype, np.integer):
        return
    ratios, limit = ratios_of(layer), largest_ratio(call.dtype)
    above = ratios > limit
    if not np.any(above):
        return
    worst = float(np.max(ratios[above]))
    figure = f"mean/sd is {worst:.3g} in {call.dtype.name}, above {limit:g} in "
    figure += _some(above)
    narrow = call.dtype.itemsize == 2
    if narrow:
        ground = (
            f"{call.dtype.name} rounds the values to a large part of their deviation"
        )
        fix = "nn.Dense(dtype=jnp.float32)  # the layer before; or subtract a constant"
    else:
        ground = "the variance by one pass has a relative error of 6e-8 (mean/sd)^2 = "
        ground += f"{6e-8 * worst**2:.2g}"
        fix = "x = x - center  # a constant near the mean, before the layer"
        if call.is_own:
            ground += "; jaxbn's is accurate up to 1e4, an export's may not be"
        else:
            fix = f"{context.fixes.norm}  # accurate up to 1e4; or subtract a constant"
    yield "warning", "mean/sd", figure, ground, fix


def _common(layer: Layer, context: Context) -> Iterator[Found]:
    """Practice that is contested, or common: no alarm."""
    call, level = layer.call, "information"
    if call is not None and call.bias_before is not None:
        figure = f"`{call.bias_before}` adds a bias that this layer subtracts again"
        ground = "arithmetic: (x + b) - mean(x + b) = x - mean(x); it learns nothing"
        yield level, "bias before", figure, ground, "use_bias=False  # in that layer"
    if call is not None and call.dropout_before is not None:
        figure = f"`{call.dropout_before}` runs before it"
        ground = "variances differ in training and inference; "
        ground += "Li et al. 2019, arXiv:1801.05134"
        yield level, "dropout before", figure, ground, "# dropout after the last norm"
    if layer.decayed:
        figure = f"weight decay acts on {' and '.join(layer.decayed)}"
        ground = "common, and contested: He et al. 2019, arXiv:1812.01187, leave it out"
        fix = "optax.add_decayed_weights(rate, mask=jax.tree.map(lambda p: p.ndim > 1, "
        fix += "params))"
        yield level, "weight decay", figure, ground, fix
    small = (layer.var >= 0) & (layer.var < layer.epsilon)
    if np.any(small):
        least = float(np.min(layer.var[small]))
        figure = f"the running variance of {_some(small)} is below epsilon, "
        figure += f"{layer.epsilon:g} (the least is {least:.3g})"
        ground = "arithmetic: epsilon decides their scale; constant features are common"
        yield level, "variance under epsilon", figure, ground, "BatchNorm(epsilon=...)"
    if layer.scale is not None:
        near = np.abs(layer.scale) < NEAR_ZERO
        if np.any(near):
            figure = f"|scale| of {_some(near)} is below {NEAR_ZERO:g}"
            ground = (
                "pruned or new features; zero at the end of a residual block is usual"
            )
            yield level, "scale near 0", figure, ground, "# no change is needed"


RULES: tuple[Callable[[Layer, Context], Iterator[Found]], ...] = (
    _statistics, _input, _gap, _momentum, _batch_size, _ratio, _common,
)  # fmt: skip


def replicas(differing: Mapping[str, str]) -> Iterable[Finding]:
    """Statistics or parameters that are not the same everywhere."""
    ground = "exact: each device or process then infers by statistics of its own"
    fix = 'BatchNorm(axis_name="batch")  # or jax.lax.pmean(batch_stats, "batch")'
    for path, figure in differing.items():
        yield Finding("error", path, "replicas", figure, ground, fix)


def neighbours(
    by_batch: Iterable[str], same: bool, context: Context
) -> Iterable[Finding]:
    """Inference in which the first example's output changes with the others."""
    if same:
        return
    figure = "the first example's output changes when the other examples do"
    for path in by_batch:
        ground = "exact: in inference this layer normalizes by the batch"
        yield Finding(
            "error", path, "neighbours", figure, ground, context.fixes.inference
        )
    if not list(by_batch):
        ground = (
            "exact: no batch norm normalizes by the batch; another layer mixes examples"
        )
        fix = "# look for what reduces over the leading axis"
        yield Finding("information", ".", "neighbours", figure, ground, fix)


def _some(which: Values) -> str:
    """How many features, and which."""
    number, first = int(np.sum(which)), np.argwhere(which)[0]
    name = ", ".join(map(str, first))
    few = "feature" if which.size == 1 else "features"
    return f"{number} of {which.size} {few} (the first: {name})"


def _number(value: float) -> str:
    return f"{value:.3g}"
