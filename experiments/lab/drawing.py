# SPDX-License-Identifier: Apache-2.0
"""What a study gives, and what it says while it runs."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from experiments.run.plots import STYLES
from experiments.run.report import Picture, Table

Progress = Callable[[Iterable[Any], str], Iterable[Any]]
"""Yields the items, and shows which one it is at."""


class Result(NamedTuple):
    """For the terminal and the page."""

    title: str
    summary: str
    table: Table
    figures: list[Picture]


class Line(NamedTuple):
    """A measure of every seed, over the values of the x axis."""

    label: str
    values: np.ndarray  # (seeds, x)


def percent(values: np.ndarray) -> str:
    """Returns the mean over seeds and the standard deviation, of fractions."""
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{100 * np.mean(values):.1f} ± {100 * spread:.1f}"


def draw_lines(axes: Axes, x: Iterable[float], lines: list[Line]) -> None:
    """Draws means over seeds, and the range of one standard deviation."""
    x = list(x)
    for line, (colour, dash) in zip(lines, STYLES, strict=False):
        mean, spread = 100 * line.values.mean(0), 100 * line.values.std(0)
        axes.plot(x, mean, ls=dash, color=colour, linewidth=2, label=line.label)
        axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.15)
    axes.grid(alpha=0.3)
