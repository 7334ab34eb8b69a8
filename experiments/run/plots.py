# SPDX-License-Identifier: Apache-2.0
"""Figures as SVG: how every figure looks, and the curves of training runs."""

import contextlib
import io
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.run.metrics import Record, series

# Okabe & Ito's palette, which colour-blind readers can tell apart; dashes for print.
STYLES: list[tuple[str, Any]] = [
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#CC79A7", ":"),
    ("#000000", (0, (6, 1, 1, 1, 1, 1))),
    ("#E69F00", (0, (4, 1))),
    ("#56B4E9", (0, (1, 1))),
    ("#777777", (0, (8, 2, 2, 2))),
]
RENDERING: Any = {"svg.hashsalt": "jaxbn", "svg.fonttype": "path", "font.size": 11}


class Run(NamedTuple):
    """The metrics of one run, and the group (variant) it belongs to."""

    group: str
    records: list[Record]


@contextlib.contextmanager
def panels(
    num: int, size: tuple[float, float], *, same_y: bool = False
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yields a figure of this size in inches, with `num` axes next to each other."""
    with rc_context(RENDERING):
        figure = Figure(figsize=size, layout="constrained")
        all_axes = list(np.ravel(figure.subplots(1, num, sharey=same_y)))
        for axes in all_axes:
            axes.grid(alpha=0.3)
        yield figure, all_axes


def to_svg(figure: Figure) -> str:
    """Returns the figure as an SVG element; equal figures give equal text."""
    buffer = io.StringIO()
    with rc_context(RENDERING):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def curves(title: str, runs: list[Run]) -> str:
    """Draws training loss and test accuracy over steps; returns an SVG element."""
    with panels(2, (9, 3.6)) as (figure, (loss, accuracy)):
        _curves(loss, runs, "loss", "training loss")
        loss.set_yscale("log")
        _curves(accuracy, runs, "test_accuracy", "test accuracy")
        accuracy.set_ylim(_lowest(runs), 1)
        accuracy.yaxis.set_major_formatter(PercentFormatter(1))
        accuracy.legend(loc="lower right")
        if title:
            figure.suptitle(title)
    return to_svg(figure)


def _curves(axes: Axes, runs: list[Run], name: str, label: str) -> None:
    """Draws each run thin, and the mean of each group thick."""
    groups = dict.fromkeys(run.group for run in runs)
    for group, (colour, dash) in zip(groups, STYLES, strict=False):
        drawn = [series(run.records, name) for run in runs if run.group == group]
        for steps, values in drawn:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        steps = min((s for s, _ in drawn), key=len)
        columns = zip(*(values for _, values in drawn), strict=False)
        mean = [sum(column) / len(column) for column in columns]
        axes.plot(steps, mean, ls=dash, color=colour, linewidth=2, label=group)
    axes.set(xlabel="step", ylabel=label)


def _lowest(runs: list[Run]) -> float:
    """Returns where the axis of accuracies starts: below every run's last quarter."""
    tails = []
    for run in runs:
        _, values = series(run.records, "test_accuracy")
        tails += values[len(values) // 4 :]
    finite = [value for value in tails if math.isfinite(value)]
    return max(0.0, min(finite, default=0.0) - 0.02)
