# SPDX-License-Identifier: Apache-2.0
"""The page of a diagnosis: HTML and SVG in one text, without scripts."""

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from jaxbn._diagnosis.rules import StatisticsGap
from jaxbn._population.merging import Values

MOST_FEATURES, MOST_POINTS = 256, 400
"""In a figure; of more, some are drawn, at equal distances."""
STYLE = """
  body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
         max-width: 60rem; margin: 0 auto; padding: 1rem; }
  h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
  h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { padding: .3rem .8rem .3rem 0; text-align: right; white-space: nowrap;
           border-bottom: 1px solid #ccc; }
  th:first-child, td:first-child { text-align: left; }
  svg { width: 100%; height: auto; display: block; }
  svg text { font: 12px system-ui, sans-serif; fill: #444; }
  .finding { border-left: .3rem solid #5b7a99; padding: .1rem 0 .1rem .8rem;
             margin: 1rem 0; overflow-wrap: anywhere; }
  .finding p { margin: .2rem 0; }
  .finding.error { border-color: #b3261e; }
  .finding.warning { border-color: #d08700; }
  td.error { color: #b3261e; } td.warning { color: #8a5a00; }
  .level { font-size: .85rem; text-transform: uppercase; letter-spacing: .05em; }
  .small, figcaption { color: #444; font-size: .9rem; }
  code, pre { background: #f3f3f3; font-size: .9em; }
  code { padding: .1rem .3rem; }
  pre { white-space: pre-wrap; padding: .5rem; margin: .3rem 0; }
  .figures { display: grid; gap: 1rem;
             grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); }
  figure { margin: 0; overflow-wrap: anywhere; }
  .overview { max-width: 36rem; }
"""
LAYERS = (
    "values: per feature, those that count in a usual batch. error of var: relative "
    "standard error of a variance of that many values. mean/sd: the largest of the "
    "features. gap: running against population statistics, as a part of what the test "
    "allows; above 1 it is an alarm."
)
OVERVIEW = (
    "The larger gap of mean and variance in each layer. Left of the line, the running "
    "statistics differ from those of the batches no more than one batch may."
)
FEATURES = (
    "Distance from the statistics of all batches together, in deviations of one batch: "
    "across, of the mean; upwards, of the logarithm of the variance. Grey: one feature "
    "in one batch. Blue: its running statistics."
)
COLOURS = {"error": "#b3261e", "warning": "#d08700"}
USUAL = "#2a6f97"


def page(
    *,
    summary: str,
    findings: Iterable[tuple[Sequence[str], Sequence[str]]],
    header: Sequence[str],
    rows: Iterable[tuple[str | None, Sequence[str]]],
    overview: str,
    figures: Iterable[tuple[str, str]],
    skipped: Sequence[str],
) -> str:
    """Returns the whole page."""
    found = (
        "\n".join(_finding(*pair) for pair in findings) or "<p>Nothing was found.</p>"
    )
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "\n".join(_row(level, cells) for level, cells in rows)
    drawn = "\n".join(
        f"<figure>{svg}<figcaption><code>{escape(path)}</code></figcaption></figure>"
        for path, svg in figures
    )
    parts = [
        "<h2>Findings</h2>",
        found,
        "<h2>Layers</h2>",
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>',
        f"<tbody>\n{body}\n</tbody></table></div>",
        _small(LAYERS),
    ]
    if overview:
        parts += [
            "<h2>Training and inference</h2>",
            f'<div class="overview">{overview}</div>',
            _small(OVERVIEW),
        ]
    if drawn:
        parts += [
            "<h2>Features</h2>",
            _small(FEATURES),
            f'<div class="figures">{drawn}</div>',
        ]
    if skipped:
        items = "".join(f"<li>{escape(reason)}</li>" for reason in skipped)
        parts += ["<h2>Not checked</h2>", f"<ul>{items}</ul>"]
    content = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Batch norm: diagnosis</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Batch norm: diagnosis</h1>
<p>{escape(summary)}.</p>
{content}
</body>
</html>
"""


def _small(text: str) -> str:
    return f'<p class="small">{text}</p>'


def _finding(parts: Sequence[str], layers: Sequence[str]) -> str:
    level, check, figure, ground, fix = map(escape, parts)
    names = ", ".join(f"<code>{escape(layer)}</code>" for layer in layers)
    return (
        f'<div class="finding {level}"><p><span class="level">{level}</span> '
        f"<strong>{check}</strong> in {names}</p><p>{figure}</p>"
        f'<p class="small">{ground}</p><pre>{fix}</pre></div>'
    )


def _row(level: str | None, cells: Sequence[str]) -> str:
    first, *rest = map(escape, cells)
    others = "".join(f"<td>{cell}</td>" for cell in rest)
    return f'<tr><td class="{level or ""}">{first}</td>{others}</tr>'


def overview(layers: Sequence[tuple[str, str | None, StatisticsGap]]) -> str:
    """A bar a layer: the larger gap, as a part of what the test allows."""
    if not layers:
        return ""
    width, left, step = 420, 160, 18
    parts = [max(g.mean / g.limit_mean, g.var / g.limit_var) for _, _, g in layers]
    end = max(2.0, *parts)

    def place(value: float) -> float:
        return left + (width - left - 40) * _squeeze(value) / _squeeze(end)

    height = step * len(layers) + 24
    lines = [_open(width, height, "The gap of each layer, as a part of the limit")]
    for number, ((path, level, _), part) in enumerate(zip(layers, parts, strict=True)):
        y, length = step * number + 4, max(place(part) - left, 1)
        colour = COLOURS.get(level or "", USUAL)
        name = path if len(path) <= 24 else f"...{path[-21:]}"
        lines += [
            _text(left - 6, y + 11, name, "end"),
            f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{step - 5}" ',
            f'fill="{colour if part > 1 else USUAL}"/>',
            _text(left + length + 4, y + 11, f"{part:.2g}"),
        ]
    x = place(1.0)
    lines += [
        f'<path d="M{x:.1f} 0V{height - 20}" stroke="#1a1a1a" stroke-dasharray="4 3"/>',
        _text(x, height - 5, "limit", "middle"),
        "</svg>",
    ]
    return "".join(lines)


def scatter(path: str, gap: StatisticsGap) -> str:
    """The features of a layer: their running statistics among those of the batches."""
    size, middle = 280, 140
    means, variances = gap.means.ravel(), gap.variances.ravel()
    cloud = gap.batches[0].ravel(), gap.batches[1].ravel()
    values = [np.abs(a[np.isfinite(a)]) for a in (means, variances, *cloud)]
    end = max(3.0, *(float(np.max(a, initial=0)) for a in values))

    def place(value: float) -> float:
        return (middle - 16) * _squeeze(value) / _squeeze(end)

    lines = [_open(size, size, f"Statistics of the features of {path}")]
    lines += [
        f'<path d="M0 {middle}H{size}M{middle} 0V{size}" stroke="#ccc" fill="none"/>'
    ]
    for tick in (t for t in (1.0, 3.0, 10.0, 100.0, 1e3, 1e4) if t <= end):
        at = place(tick)
        lines += [
            f'<path d="M{middle + at:.1f} {middle - 3}v6" stroke="#888"/>',
            f'<path d="M{middle - 3} {middle - at:.1f}h6" stroke="#888"/>',
            _text(middle + at, middle + 15, f"{tick:g}", "middle"),
        ]
    drawn = (
        ("#bbb", 1.2, _some(*cloud, MOST_POINTS)),
        (USUAL, 2.0, _some(means, variances, MOST_FEATURES)),
    )
    for colour, radius, points in drawn:
        lines.append(f'<g fill="{colour}">')
        lines += [
            f'<circle cx="{middle + place(x):.1f}" cy="{middle - place(y):.1f}" '
            f'r="{radius}"/>'
            for x, y in points
        ]
        lines.append("</g>")
    lines += [
        _text(size - 2, middle - 6, "mean", "end"),
        _text(middle + 6, 12, "variance"),
        "</svg>",
    ]
    return "".join(lines)


def _text(x: float | int, y: int, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _some(xs: Values, ys: Values, most: int) -> list[tuple[float, float]]:
    """At most this many points, those that are finite."""
    chosen = np.unique(np.linspace(0, max(len(xs) - 1, 0), most).astype(int))
    pairs = [(float(xs[k]), float(ys[k])) for k in chosen if len(xs)]
    return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def _squeeze(value: float) -> float:
    """Near 0 as it is, farther out as its logarithm."""
    return math.asinh(value)


def _open(width: int, height: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>'
    )
