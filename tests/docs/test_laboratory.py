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


def test_the_verdicts_are_those_that_the_laboratory_wrote():
    """docs/verdicts.json is that of `make lab`; the table has all of it, in order."""
    written = json.loads((ROOT / "docs" / "verdicts.json").read_text("utf-8"))
    data_sets = list(dict.fromkeys(found["images"] for found in written))
    claims = {}
    for found in written:
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
    assert {found["study"] for found in written} == names
