# SPDX-License-Identifier: Apache-2.0
"""The outcome of a study, for people (a page, tables) and for programs (JSON)."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.config import IMAGES, StudyConfig
from experiments.lab.figures import cell, draw, draw_percentiles, table
from experiments.lab.runs_table import SEED, Row, is_of
from experiments.lab.shift import PERCENTILES
from experiments.lab.verdicts import Verdict, decide
from experiments.run import report
from experiments.run.folder import write_atomically
from experiments.run.report import Picture, Table

VERDICTS = "verdicts.json"
BARS = "Bars: bootstrap 95 % intervals of the mean over seeds."
UNIT = "Percentiles of the input of one unit of the last hidden layer, first seed."
WORDS = {
    "digits": "scikit-learn's handwritten digits",
    "fashion_mnist": "images of Fashion-MNIST in 7x7 pixels",
}
MARKS = {"supported": "✓", "not supported": "✗", "undecided": "?"}


class Outcome(NamedTuple):
    """The study, its verdicts, figures and tables, and the command that repeats it."""

    study: StudyConfig
    verdicts: list[Verdict]
    pictures: list[Picture]
    numbers: Table  # of the figure
    table: Table  # of all variants
    command: str


def conclude(study: StudyConfig, rows: list[Row], command: str) -> Outcome:
    """Applies the rules to the runs, and draws them."""
    order = [variant.settings for variant in study.variants]
    names = [name for name, _ in order[0]]
    rows = sorted(  # runs come in any order
        rows, key=lambda row: order.index(tuple((name, row[name]) for name in names))
    )
    verdicts = [decide(claim, rows) for claim in study.claims]
    pictures = [Picture(draw(study.figure, rows), f"{study.figure.caption} {BARS}")]
    if study.probe == "shift":
        pictures.append(Picture(draw_percentiles(study.figure.lines, rows), UNIT))
    numbers = table(study.figure, rows)
    return Outcome(study, verdicts, pictures, numbers, _table(study, rows), command)


def in_words(verdict: Verdict) -> str:
    """Returns the effect and its interval, with the unit."""
    return interval(verdict.effect, verdict.low, verdict.high, verdict.claim.unit)


def interval(effect: float, low: float, high: float, unit: str) -> str:
    """Returns three digits of each number, at most three after the point."""
    effect_, low_, high_ = (
        f"{round(number, 3) + 0.0:.3g}" for number in (effect, low, high)
    )
    return f"{effect_} [{low_}, {high_}] {unit}".rstrip()


def front_table(outcomes: list[Outcome]) -> Table:
    """Returns the table of verdicts, a row for each claim.

    Those of several data sets are side by side.
    """
    images = list(dict.fromkeys(outcome.study.images for outcome in outcomes))
    names = ["verdict"] if len(images) == 1 else [name_of(each) for each in images]
    rows = []
    for group in by_study(outcomes):
        verdicts = {outcome.study.images: outcome.verdicts for outcome in group}
        for number, (claim, *_) in enumerate(group[0].verdicts):
            row = [group[0].study.name, claim.text]
            for each in images:
                row += _cells(verdicts[each][number]) if each in verdicts else ["-"] * 2
            rows.append([*row, f"{claim.at_least:g}"])
    effects = [text for name in names for text in (name, "effect [95 %]")]
    note = (
        "Effects are means over paired seeds with bootstrap 95 % intervals. Supported: "
        "the interval lies at or above the limit; not supported: below; else undecided."
    )
    return Table(["study", "claim", *effects, "limit"], rows, note)


def _cells(verdict: Verdict) -> list[str]:
    return [f"{MARKS[verdict.verdict]} {verdict.verdict}", in_words(verdict)]


def by_study(outcomes: list[Outcome]) -> list[list[Outcome]]:
    """Returns the outcomes of each study, on one data set or several."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.study.name, []).append(outcome)
    return list(groups.values())


def name_of(images: str) -> str:
    """Returns the name of a data set in texts."""
    return IMAGES.get(images, images)


def write_verdicts(path: Path, outcomes: list[Outcome]) -> None:
    """Writes the verdicts of all outcomes as a JSON list."""
    found = [
        v.as_json(o.study.name, o.study.images) for o in outcomes for v in o.verdicts
    ]
    write_atomically(path, json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def write_page(path: Path, title: str, outcomes: list[Outcome], command: str) -> None:
    """Writes the page about one study or several."""
    images = list(dict.fromkeys(outcome.study.images for outcome in outcomes))
    report.write_page(
        path,
        "lab.html",
        title=title,
        groups=by_study(outcomes),
        name_of=name_of,
        several=len(images) > 1,
        images=" and ".join(WORDS.get(each, each) for each in images),
        front=front_table(outcomes),
        in_words=in_words,
        marks=MARKS,
        command=command,
    )


def _table(study: StudyConfig, rows: list[Row]) -> Table:
    """Means and standard deviations over seeds, a row for each variant."""
    names = [name for name, _ in study.variants[0].settings]
    over_time = tuple(f"p{percentile}_after_" for percentile in PERCENTILES)
    measures = [
        name
        for name in rows[0]
        if name not in (*names, SEED) and not name.startswith(over_time)
    ]
    cells = []
    for variant in study.variants:
        own = [row for row in rows if is_of(variant, row)]
        if own:
            values = (np.asarray([row[name] for row in own]) for name in measures)
            settings = (str(value) for _, value in variant.settings)
            cells.append([*settings, str(len(own)), *map(cell, values)])
    note = (
        "Means over the seeds ± standard deviation. Accuracies are fractions; a run "
        "that does not reach an accuracy counts with all its steps."
    )
    return Table(
        [*names, "runs", *(m.replace("_", " ") for m in measures)], cells, note
    )
