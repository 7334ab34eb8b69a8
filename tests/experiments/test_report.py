# SPDX-License-Identifier: Apache-2.0
"""The page is self-contained, well formed and escaped; the curves show every group."""

import io
import math
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from experiments.run.metrics import Record
from experiments.run.plots import Run, curves
from experiments.run.report import Picture, Table, print_table, write_report

RUNS = [
    Run("with <norm>", [Record(s, loss=1 / s, test_accuracy=1 - 1 / s)
                        for s in range(1, 9)]),
    Run("without", [Record(s, loss=math.nan, test_accuracy=0.5) for s in range(1, 9)]),
]  # fmt: skip


class Tags(HTMLParser):
    """Collects start tags with attributes, and text."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "report.html"
    write_report(
        path,
        title="A & B",
        summary="<script>alert(1)</script>",
        table=Table(["run", "loss"], [["a<b", "0.5"]], "A note."),
        figures=[Picture(curves("Title", RUNS), "A caption.")],
        command="make demo",
    )
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    tags = Tags()
    tags.feed(path.read_text("utf-8"))
    return tags


def test_says_what_it_should(page):
    for text in ("A & B", "a<b", "A note.", "A caption.", "make demo", "jaxbn 0."):
        assert text in page.text
    names = [tag for tag, _ in page.tags]
    assert names.count("svg") == 1 and "script" not in names


def test_loads_nothing(page):
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "script")
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert value.startswith("#"), (tag, name, value)


def test_curves_are_the_same_each_time_and_draw_both_groups():
    svg = curves("Title", RUNS)
    assert svg == curves("Title", RUNS)
    colours = set(re.findall(r"stroke: (#[0-9a-f]{6})", svg))
    assert {"#0072b2", "#d55e00"} <= colours


def test_numbers_are_aligned_to_the_right_on_the_console():
    table = Table(["name", "ms"], [["a", "-"], ["bc", "12.5"]], "A note.", "A title")
    out = io.StringIO()
    print_table(Console(file=out, width=40), table)
    assert "│ a    │    - │" in out.getvalue() and "│ bc   │ 12.5 │" in out.getvalue()
    assert "A title" in out.getvalue() and "A note." in out.getvalue()
