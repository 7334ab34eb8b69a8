# SPDX-License-Identifier: Apache-2.0
"""Curves as SVG: one panel a measure, one colour and dash a group of runs."""

import io
import math
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.run.metrics import Record, series

# Okabe & Ito's palette, told apart by every kind of eye; the dashes serve print.
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


def curves(title: str, runs: list[Run]) -> str:
    """Draws training loss and test accuracy over steps; returns an SVG element."""
    with rc_context(RENDERING):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        loss, accuracy = figure.subplots(1, 2)
        _panel(loss, runs, "loss", "training loss")
        loss.set_yscale("log")
        _panel(accuracy, runs, "test_accuracy", "test accuracy")
        accuracy.set_ylim(_lowest(runs), 1)
        accuracy.yaxis.set_major_formatter(PercentFormatter(1))
        accuracy.legend(loc="lower right")
        if title:
            figure.suptitle(title)
    return to_svg(figure)


def to_svg(figure: Figure) -> str:
    """Returns the figure as an SVG element, the same for the same figure."""
    buffer = io.StringIO()
    with rc_context(RENDERING):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _panel(axes: Axes, runs: list[Run], name: str, label: str) -> None:
    """Draws each run thin, and the mean of each group thick."""
    for group, (colour, dash) in zip(_groups(runs), STYLES, strict=False):
        drawn = [series(run.records, name) for run in runs if run.group == group]
        for steps, values in drawn:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        steps = min((s for s, _ in drawn), key=len)
        columns = zip(*(values for _, values in drawn), strict=False)
        mean = [sum(column) / len(column) for column in columns]
        axes.plot(steps, mean, ls=dash, color=colour, linewidth=2, label=group)
    axes.set(xlabel="step", ylabel=label)
    axes.grid(alpha=0.3)


def _groups(runs: list[Run]) -> list[str]:
    """The groups in order of appearance."""
    return list(dict.fromkeys(run.group for run in runs))


def _lowest(runs: list[Run]) -> float:
    """Where the axis of accuracies starts: below the last quarter of every run."""
    tails = []
    for run in runs:
        _, values = series(run.records, "test_accuracy")
        tails += values[len(values) // 4 :]
    finite = [value for value in tails if math.isfinite(value)]
    return max(0.0, min(finite, default=0.0) - 0.02)
