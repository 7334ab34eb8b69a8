# SPDX-License-Identifier: Apache-2.0
"""The figure of a study: means over seeds, with 95 % intervals."""

from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from experiments.config import FigureConfig
from experiments.lab.runs_table import SEED, Row
from experiments.lab.shift import PERCENTILES
from experiments.lab.verdicts import bootstrap
from experiments.run.plots import RENDERING, STYLES, to_svg

MARKERS = "osD^vPX*"


def draw(figure: FigureConfig, rows: list[Row]) -> str:
    """Returns an SVG element."""
    panels = _options(rows, figure.panels) if figure.panels else [None]
    lines = _options(rows, figure.lines)  # of all panels, which may lack some
    with rc_context(RENDERING):
        width = 6.5 if len(panels) == 1 else 2.5 + 3.0 * len(panels)
        drawn = Figure(figsize=(width, 3.8), layout="constrained")
        same = figure.percent
        all_axes = np.ravel(drawn.subplots(1, len(panels), sharey=same))
        for axes, panel in zip(all_axes, panels, strict=True):
            inside = [r for r in rows if panel is None or r[figure.panels] == panel]
            _panel(axes, figure, inside, lines)
            if panel is not None:
                axes.set_title(f"{figure.panels}: {panel}")
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
    panels = _options(rows, lines)
    with rc_context(RENDERING):
        drawn = Figure(figsize=(2.5 + 2.5 * len(panels), 3.2), layout="constrained")
        for axes, panel in zip(
            np.ravel(drawn.subplots(1, len(panels))), panels, strict=True
        ):
            row = next(row for row in rows if row[lines] == panel)
            blocks = [name for name in row if name.startswith("p50_after_")]
            steps = row["steps_between"] * np.arange(1, len(blocks) + 1)
            for percentile, (colour, dash) in zip(PERCENTILES, STYLES, strict=False):
                values = [
                    row[f"p{percentile}_after_{k + 1}"] for k in range(len(blocks))
                ]
                axes.plot(steps, values, color=colour, ls=dash, label=f"{percentile} %")
            axes.set(title=panel, xlabel="step")
            axes.grid(alpha=0.3)
        drawn.axes[0].set_ylabel("input of one sigmoid")
        drawn.axes[-1].legend(title="percentile")
    return to_svg(drawn)


def _panel(axes: Axes, figure: FigureConfig, rows: list[Row], lines: list[Any]) -> None:
    """One line for each option that the panel has, over the options of `x`."""
    options = _options(rows, figure.x)
    words = any(isinstance(option, str) for option in options)
    place = {option: k if words else option for k, option in enumerate(options)}
    for number, line in enumerate(lines):
        colour, dash = STYLES[number % len(STYLES)]
        own = [row for row in rows if row[figure.lines] == line]
        if not own:
            continue
        xs = _options(own, figure.x)
        found = [_interval(figure, own, x) for x in xs]
        mean, low, high = np.transpose(found)
        at = np.asarray([place[x] for x in xs], float)
        if words:  # side by side, where they would hide each other
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
    _axes(axes, figure, place, words)


def _axes(axes: Axes, figure: FigureConfig, place: dict, words: bool) -> None:
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
    axes.grid(alpha=0.3)


def _interval(figure: FigureConfig, rows: list[Row], x: Any) -> tuple:
    """The mean over the seeds and the ends of its interval."""
    chosen = [row for row in rows if row[figure.x] == x]
    seeds = dict.fromkeys(row[SEED] for row in chosen)
    values = [
        np.mean([row[figure.y] for row in chosen if row[SEED] == seed])
        for seed in seeds
    ]
    return bootstrap(np.asarray(values, float))


def _options(rows: list[Row], name: str) -> list[Any]:
    """The values of a setting, in order; numbers by size."""
    options = list(dict.fromkeys(row[name] for row in rows))
    return options if isinstance(options[0], str) else sorted(options)
