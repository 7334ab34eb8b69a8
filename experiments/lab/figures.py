# SPDX-License-Identifier: Apache-2.0
"""The figure of a study, and its numbers as a table."""

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, PercentFormatter

from experiments.config import FigureConfig
from experiments.lab.runs_table import SEED, Row
from experiments.lab.shift import PERCENTILES
from experiments.lab.verdicts import bootstrap
from experiments.run.plots import STYLES, panels, to_svg
from experiments.run.report import Table

MARKERS = "osD^vPX*"


def draw(figure: FigureConfig, rows: list[Row]) -> str:
    """Draws means over seeds with 95 % intervals; returns an SVG element."""
    names = options(rows, figure.panels)
    lines = options(rows, figure.lines)  # of all panels, some of which may lack some
    width = 6.5 if len(names) == 1 else 2.5 + 3.0 * len(names)
    size = (width, 3.8)
    with panels(len(names), size, same_y=figure.percent) as (drawn, all_axes):
        for axes, name in zip(all_axes, names, strict=True):
            _panel(axes, figure, _where(rows, figure.panels, name), lines)
            if figure.panels:
                axes.set_title(f"{figure.panels}: {name}")
        all_axes[0].set_ylabel(figure.label)
        if figure.x != figure.lines:
            handles = {
                label: handle
                for axes in all_axes
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
            }
            drawn.legend(
                [handles[str(line)] for line in lines],
                list(map(str, lines)),
                loc="outside right upper",
                title=figure.lines,
                frameon=False,
            )
    return to_svg(drawn)


def draw_percentiles(lines: str, rows: list[Row]) -> str:
    """Draws how a unit's inputs spread over training, a panel for each variant.

    After Ioffe & Szegedy 2015, figure 1: one unit of the last hidden layer, with the
    first seed.
    """
    names = options(rows, lines)
    with panels(len(names), (2.5 + 2.5 * len(names), 3.2)) as (drawn, all_axes):
        for axes, name in zip(all_axes, names, strict=True):
            row = _where(rows, lines, name)[0]
            blocks = range(1, 1 + sum(key.startswith("p50_after_") for key in row))
            steps = row["steps_between"] * np.asarray(blocks)
            for percentile, (colour, dash) in zip(PERCENTILES, STYLES, strict=False):
                values = [row[f"p{percentile}_after_{block}"] for block in blocks]
                axes.plot(steps, values, color=colour, ls=dash, label=f"{percentile} %")
            axes.set(title=name, xlabel="step")
        all_axes[0].set_ylabel("input of one sigmoid")
        all_axes[-1].legend(title="percentile")
    return to_svg(drawn)


def table(figure: FigureConfig, rows: list[Row]) -> Table:
    """Returns the figure's numbers: a column for each line, a row for each place."""
    lines = options(rows, figure.lines)
    names = [
        name for name in (figure.panels, figure.x) if name not in ("", figure.lines)
    ]
    cells = []
    for place in itertools.product(*(options(rows, name) for name in names)):
        inside = rows
        for name, value in zip(names, place, strict=True):
            inside = _where(inside, name, value)
        by_line = [_where(inside, figure.lines, line) for line in lines]
        if inside:
            found = [cell(by_seed(figure, own), figure.percent) for own in by_line]
            cells.append([*map(str, place), *found])
    unit = " in %" if figure.percent else ""
    note = f"{figure.label}{unit}: means over the seeds ± standard deviation."
    return Table([*names, *map(str, lines)], cells, note[0].upper() + note[1:])


def cell(values: np.ndarray, percent: bool = False) -> str:
    """Returns the mean and the standard deviation as text."""
    if not len(values):
        return "-"
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    if percent:
        return f"{100 * np.mean(values):.1f} ± {100 * spread:.1f}"
    return f"{np.mean(values):.3g} ± {spread:.2g}"


def by_seed(figure: FigureConfig, rows: list[Row]) -> np.ndarray:
    """Returns one value for each seed: the mean of the figure's column."""
    seeds = dict.fromkeys(row[SEED] for row in rows)
    means = [np.mean([r[figure.y] for r in _where(rows, SEED, s)]) for s in seeds]
    return np.asarray(means, float)


def options(rows: list[Row], name: str) -> list[Any]:
    """Returns a setting's values, numbers by size; `[None]` if there is no setting."""
    found = list(dict.fromkeys(row[name] for row in rows)) if name else [None]
    return sorted(found) if isinstance(found[0], int | float) else found


def _where(rows: list[Row], name: str, value: Any) -> list[Row]:
    return [row for row in rows if row[name] == value] if name else rows


def _panel(axes: Axes, figure: FigureConfig, rows: list[Row], lines: list[Any]) -> None:
    """Draws a line for each option that the panel has, over the options of `x`."""
    found = options(rows, figure.x)
    words = isinstance(found[0], str)
    place = {option: k if words else option for k, option in enumerate(found)}
    for number, line in enumerate(lines):
        colour, dash = STYLES[number % len(STYLES)]
        own = _where(rows, figure.lines, line)
        if not own:
            continue
        xs = options(own, figure.x)
        intervals = [bootstrap(by_seed(figure, _where(own, figure.x, x))) for x in xs]
        mean, low, high = np.transpose(intervals)
        at = np.asarray([place[x] for x in xs], float)
        if words:  # next to each other, where they would hide each other
            at = at + 0.08 * (number - (len(lines) - 1) / 2)
        axes.errorbar(
            at,
            mean,
            yerr=(mean - low, high - mean),
            color=colour,
            linestyle="none" if words else dash,
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=1.6,
            capsize=2,
            label=str(line),
        )
    axes.set_xlabel(figure.x)
    if words:
        axes.set_xticks(list(place.values()), labels=list(place))
        axes.margins(x=0.25)
    elif figure.log_x:
        axes.set_xscale("log")
        if len(place) <= 8 and all(isinstance(option, int) for option in place):
            axes.set_xticks(list(place), labels=list(map(str, place)))
            axes.xaxis.set_minor_locator(NullLocator())
    if figure.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
