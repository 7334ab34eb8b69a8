# SPDX-License-Identifier: Apache-2.0
"""A diagnosis, as text, as a table of rich and as a page."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jaxbn._diagnosis.evidence import Layer
from jaxbn._diagnosis.page import overview, page, scatter
from jaxbn._diagnosis.rules import (
    Context,
    Finding,
    StatisticsGap,
    findings_of,
    gap_of,
    ratios_of,
    variance_error,
)

LEVELS = ("error", "warning", "information")
COLOURS = {"error": "bold red", "warning": "yellow", "information": "cyan"}


class LayerSummary(NamedTuple):
    """The figures of one batch norm.

    Attributes:
        path: its name in the model, with its place where `scan` or `vmap` stack some.
        features: how many.
        num_values: values per feature that count in a usual batch; None if it was not
            measured: it did not run, or is frozen.
        variance_error: the relative error of the variance of that many values.
        mean_over_sd: the largest of its features.
        gap: running against population statistics; None where there were fewer than two
            batches.
    """

    path: str
    features: int
    num_values: float | None
    variance_error: float | None
    mean_over_sd: float
    gap: StatisticsGap | None


class Diagnosis(NamedTuple):
    """What is wrong with the batch norms of a model, and what they measure.

    `print` it, print it with rich, or write `html()` to a file.

    Attributes:
        findings: errors first, then warnings, then information.
        layers: the figures of each layer, in the order in which they run.
        skipped: the checks that were not made, and what they need.
        num_batches: how many batches there were.
    """

    findings: tuple[Finding, ...]
    layers: tuple[LayerSummary, ...]
    skipped: tuple[str, ...]
    num_batches: int

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """The errors and warnings; a healthy model has none."""
        return tuple(f for f in self.findings if f.level != "information")

    @property
    def summary(self) -> str:
        """One sentence."""
        counts = [
            f"{number} {level}{'s' if number > 1 and level != 'information' else ''}"
            for level in LEVELS
            if (number := sum(f.level == level for f in self.findings))
        ]
        layers = f"{len(self.layers)} batch norm{'s' if len(self.layers) > 1 else ''}"
        batches = f"{self.num_batches} batch{'es' if self.num_batches > 1 else ''}"
        found = ", ".join(counts) or "nothing"
        return f"{layers}, {batches}: {found}" + ("" if self.alarms else "; no alarm")

    def __str__(self) -> str:
        """The findings and the checks that were not made, as text."""
        lines = [self.summary + "."]
        for (level, check, figure, ground, fix), layers in grouped(self.findings):
            lines += [
                "",
                f"{level}: {', '.join(f'`{layer}`' for layer in layers)}: {check}",
                f"  figure: {figure}",
                f"  ground: {ground}",
                f"  fix:    {fix}",
            ]
        if self.skipped:
            lines += ["", "Not checked:", *(f"  {reason}" for reason in self.skipped)]
        return "\n".join(lines)

    def __rich__(self) -> RenderableType:
        """A table of the layers and one of the findings."""
        layers = Table(title=Text(self.summary), title_justify="left")
        for number, name in enumerate(HEADER):
            layers.add_column(name, justify="left" if number == 0 else "right")
        worst = self._worst()
        for layer in self.layers:
            style = COLOURS.get(worst.get(layer.path, ""), "")
            layers.add_row(*(Text(cell) for cell in cells(layer)), style=style)
        if not self.findings:
            return Group(layers, *map(Text, self._not_checked()))
        findings = Table(show_lines=True)
        for name in ("level", "layer", "check", "figure, ground, fix"):
            findings.add_column(name, overflow="fold")
        for (level, check, *rest), paths in grouped(self.findings):
            text = Text("\n".join(rest))
            of = Text(", ".join(paths))
            findings.add_row(Text(level, style=COLOURS[level]), of, check, text)
        return Group(layers, findings, *map(Text, self._not_checked()))

    def html(self) -> str:
        """One page with figures, without other files, network or scripts."""
        worst = self._worst()
        rows = [(worst.get(layer.path), cells(layer)) for layer in self.layers]
        gaps = [(x.path, worst.get(x.path), x.gap) for x in self.layers if x.gap]
        return page(
            summary=self.summary,
            findings=grouped(self.findings),
            header=HEADER,
            rows=rows,
            overview=overview(gaps),
            figures=[(path, scatter(path, gap)) for path, _, gap in gaps],
            skipped=self.skipped,
        )

    def _not_checked(self) -> list[str]:
        return [f"Not checked: {reason}" for reason in self.skipped]

    def _worst(self) -> dict[str, str]:
        """The worst level of each layer; the findings are in this order."""
        return {f.layer: f.level for f in reversed(self.findings)}


def grouped(
    findings: Iterable[Finding],
) -> list[tuple[tuple[str, ...], list[str]]]:
    """Findings that are alike but for the layer, once, with the layers."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for level, layer, *rest in findings:
        groups.setdefault((level, *rest), []).append(layer)
    return list(groups.items())


HEADER = (
    "layer",
    "features",
    "values",
    "error of var",
    "mean/sd",
    "gap of mean",
    "gap of var",
)


def cells(layer: LayerSummary) -> list[str]:
    """A row; the gaps as parts of what the test allows."""
    gap, error = layer.gap, layer.variance_error
    return [
        layer.path,
        str(layer.features),
        "-" if layer.num_values is None else f"{layer.num_values:g}",
        "-" if error is None else f"{100 * error:.2g} %",
        f"{layer.mean_over_sd:.2g}",
        "-" if gap is None else f"{gap.mean / gap.limit_mean:.2g}",
        "-" if gap is None else f"{gap.var / gap.limit_var:.2g}",
    ]


def conclude(
    layers: Iterable[Layer],
    context: Context,
    others: Iterable[Finding],
    skipped: Iterable[str],
    num_batches: int,
) -> Diagnosis:
    """Applies the rules to each layer; `others` are findings about several."""
    findings = [*others]
    summaries: list[LayerSummary] = []
    for layer in layers:
        findings += findings_of(layer, context)
        size = layer.num_values
        summaries.append(
            LayerSummary(
                path=layer.path,
                features=layer.mean.size,
                num_values=size,
                variance_error=None if size is None else variance_error(size),
                mean_over_sd=float(np.max(ratios_of(layer), initial=0)),
                gap=gap_of(layer, context.num_layers),
            )
        )
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return Diagnosis(tuple(findings), tuple(summaries), tuple(skipped), num_batches)
