# SPDX-License-Identifier: Apache-2.0
"""The page of the laboratory says what the laboratory wrote."""

import json
import re
from pathlib import Path

import pytest

from experiments.lab.outcome import MARKS, interval

pytestmark = pytest.mark.documents

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "laboratory.md").read_text("utf-8")
WRITTEN = json.loads((ROOT / "docs" / "verdicts.json").read_text("utf-8"))
WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


def test_the_verdicts_are_those_that_the_laboratory_wrote():
    """docs/verdicts.json is that of `make lab`; the table has all of it, in order."""
    data_sets = list(dict.fromkeys(found["images"] for found in WRITTEN))
    claims = {}
    for found in WRITTEN:
        effect = interval(found["effect"], *found["interval"], found["unit"])
        verdict = f"{MARKS[found['verdict']]} {found['verdict']}"
        claim = found["study"], found["claim"], found["at_least"]
        claims.setdefault(claim, {})[found["images"]] = [verdict, effect]
    expected = []
    for (study, claim, at_least), cells in claims.items():
        row = [c for images in data_sets for c in cells.get(images, ["-", "-"])]
        line = " | ".join([study, claim, *row, f"{at_least:g}"])
        expected.append(f"| {line} |")
    rows = [line for line in TEXT.splitlines() if re.search(r"\| [✓✗?] ", line)]
    assert rows == expected and len(rows) >= 13
    names = {path.stem for path in (ROOT / "configs" / "studies").glob("*.py")}
    assert {found["study"] for found in WRITTEN} == names


def test_how_the_two_data_sets_differ():
    verdicts = {}
    for found in WRITTEN:
        verdicts.setdefault(found["claim"], []).append(found["verdict"])
    both = [pair for pair in verdicts.values() if len(pair) == 2]
    same = sum(one == other for one, other in both)
    opposite = sum(set(pair) == {"supported", "not supported"} for pair in both)
    text = " ".join(TEXT.split())
    assert f"Of {len(verdicts)} claims on digits {len(both)} were put to" in text
    assert f"{same} verdicts are the same, and {WORDS[opposite]} are opposite" in text


def test_every_figure_of_the_studies_is_shown():
    page = (ROOT / "docs" / "figures.md").read_text("utf-8")
    shown = set(re.findall(r"\((figures/\w+/\w+\.svg)\)", page))
    drawn = (ROOT / "docs" / "figures").rglob("*.svg")
    assert shown == {str(path.relative_to(ROOT / "docs")) for path in drawn}
    names = {path.stem for path in (ROOT / "configs" / "studies").glob("*.py")}
    assert names <= {path.split("/")[-1][:-4] for path in shown}
