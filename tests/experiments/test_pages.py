# SPDX-License-Identifier: Apache-2.0
"""The pages in a real browser: they fit, at the width of a desktop and of a phone."""

import html
import json
import re
import shutil
import subprocess

import pytest

from experiments.config import on
from experiments.lab.outcome import write_page
from experiments.run.report import Table, write_report
from tests.experiments.test_lab import conclude, conducted, small_study

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
]
# The window of a headless browser has a least width; a frame in it has none.
FRAME = """<!DOCTYPE html><body><iframe width="{width}" height="900" srcdoc="{page}">
</iframe><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument;
  const root = page.documentElement;
  const seen = [...page.querySelectorAll("svg, table, h1")].filter(
    e => e.getBoundingClientRect().width > 0).length;
  document.title = JSON.stringify([root.scrollWidth, root.clientWidth, seen]);
}});
</script></body>"""


def widths(page, width, folder):
    """The width that the content takes, the width there is, and elements seen."""
    frame = folder / "frame.html"
    text = FRAME.format(width=width, page=html.escape(page.read_text("utf-8")))
    frame.write_text(text, "utf-8")
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", f"--user-data-dir={folder / 'browser'}",
            "--window-size=1400,1000", "--virtual-time-budget=3000", "--dump-dom",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    return json.loads(re.search(r"<title>(.*?)</title>", done.stdout)[1])


@pytest.fixture(scope="module", params=["report", "lab"])
def page(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    path = folder / "page.html"
    study = small_study()
    outcome = conclude(study, conducted(study, folder)[0].rows, "a command " * 20)
    if request.param == "lab":
        other = outcome._replace(study=on(study, "fashion_mnist"))
        write_page(path, "A title", [outcome, other], "a command")
    else:
        table = Table(["a"] * 12, [["a number or two"] * 12] * 3, "A note.")
        write_report(
            path,
            title="A title",
            summary="A sentence.",
            table=table,
            figures=outcome.pictures,
            command="a command " * 20,
        )
    return path


@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_sticks_out(page, width, tmp_path):
    taken, there, seen = widths(page, width, tmp_path)
    assert there <= width and taken <= there
    assert seen >= 3
