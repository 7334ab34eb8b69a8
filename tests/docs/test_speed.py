# SPDX-License-Identifier: Apache-2.0
"""The tables of times and counts are of what was written and of what is compiled."""

import json
import re

import pytest

from experiments.cli.bench import medians, ratios
from tests.core.test_passes import count, flax, ours
from tests.measure.configs import MEASURED, ROOT

pytestmark = pytest.mark.documents

README = (ROOT / "README.md").read_text("utf-8")
PAGE = (ROOT / "docs" / "speed.md").read_text("utf-8")
WRITTEN = json.loads((MEASURED / "bench_layer.json").read_text("utf-8"))


def row(case):
    """Times in ms of the three libraries, and the ratio of Flax's to ours."""
    seconds = WRITTEN["cases"][case]
    times, over = medians(seconds), ratios(seconds)
    cells = [
        f"{times[n]:.1f}" if n in times else "-" for n in ("jaxbn", "flax", "torch")
    ]
    cells.append(f"{over['flax']:.2f}" if "flax" in over else "-")
    return f"| {case} | {' | '.join(cells)} |"


def test_the_page_has_every_case_of_the_layer():
    expected = [row(case) for case in WRITTEN["cases"]]
    assert [line for line in PAGE.splitlines() if line in expected] == expected
    assert WRITTEN["date"] in PAGE and WRITTEN["date"] in README


def test_the_readme_has_the_case_in_which_flax_is_fastest():
    cases = [case for case in WRITTEN["cases"] if row(case) in README]
    compared = {
        c: ratios(s)["flax"] for c, s in WRITTEN["cases"].items() if "flax" in s
    }
    assert len(cases) >= 4 and min(compared, key=compared.get) in cases


def test_segments_cost_what_the_page_says():
    one, eight = (
        medians(WRITTEN["cases"][f"forward + backward{more}"])["jaxbn"]
        for more in ("", ", 8 segments")
    )
    assert f"{eight / one:.2f} times as long as none" in PAGE


@pytest.mark.parametrize("name", ["plain", "relu"])
def test_the_counts_are_those_of_the_table(name):
    line = {"plain": "forward and backward", "relu": "the same with ReLU"}[name]
    mine, theirs = re.search(rf"{line} \| (\d+) \| (\d+)", PAGE).groups()
    assert sum(count(ours(name), backward=True)) == int(mine)
    assert sum(count(flax(name), backward=True)) == int(theirs)
