# SPDX-License-Identifier: Apache-2.0
"""The page: complete, self-contained, safe, and within the window."""

import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxbn._diagnosis.page import scatter
from tests.diagnosis.nets import diagnosed, healthy
from tests.experiments.test_pages import widths

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.usefixtures("as_users_run_it")
VOID = ("meta", "br", "hr")


class Reader(HTMLParser):
    """Checks that every element is closed, and collects names and text."""

    def __init__(self):
        super().__init__()
        self.open, self.names, self.text = [], set(), ""

    def handle_starttag(self, tag, attrs):
        self.names |= {tag, *(name for name, _ in attrs)}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def diagnosis():
    variables = healthy()
    variables["batch_stats"]["norm1"]["var"] *= 4
    return diagnosed(variables, steps=20, decay_mask=True)


def test_it_holds_every_finding_and_every_layer(diagnosis):
    reader = Reader()
    reader.feed(diagnosis.html())
    assert not reader.open
    for finding in diagnosis.findings:
        assert all(part in reader.text for part in finding)
    assert all(layer.path in reader.text for layer in diagnosis.layers)
    assert diagnosis.summary in reader.text


def test_it_needs_no_network_and_no_script(diagnosis):
    text = diagnosis.html()
    reader = Reader()
    reader.feed(text)
    assert not reader.names & {"script", "link", "img", "iframe", "src", "href"}
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)


def test_names_are_escaped(diagnosis):
    path = "<script>alert('&')</script>"
    layers = tuple(layer._replace(path=path) for layer in diagnosis.layers)
    findings = tuple(finding._replace(layer=path) for finding in diagnosis.findings)
    text = diagnosis._replace(layers=layers, findings=findings).html()
    assert "<script" not in text and "&lt;script&gt;" in text


def test_figures_are_well_formed(diagnosis):
    figures = re.findall(r"<svg.*?</svg>", diagnosis.html())
    assert len(figures) == 1 + len(diagnosis.layers)
    for figure in figures:
        root = ET.fromstring(figure)
        _, _, width, height = map(float, root.get("viewBox").split())
        for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
            assert 0 <= float(circle.get("cx")) <= width
            assert 0 <= float(circle.get("cy")) <= height


def test_a_figure_of_values_that_are_not_finite(diagnosis):
    gap = diagnosis.layers[0].gap
    means = np.where(np.arange(16) == 3, np.nan, gap.means)
    figure = scatter("norm", gap._replace(means=means))
    assert "nan" not in figure and figure.count("<circle") == 16 - 1 + 8 * 16


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_sticks_out(diagnosis, width, tmp_path):
    layers = [layer._replace(path="a_long_name/" * 12) for layer in diagnosis.layers]
    path = tmp_path / "page.html"
    path.write_text(diagnosis._replace(layers=tuple(layers)).html(), "utf-8")
    taken, there, seen = widths(path, width, tmp_path)
    assert there <= width and taken <= there
    assert seen >= 3
