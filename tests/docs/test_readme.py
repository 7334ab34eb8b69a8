# SPDX-License-Identifier: Apache-2.0
"""The README's code runs, its links lead somewhere, its commands exist."""

import json
import re
from pathlib import Path

import jax
import pytest

from experiments.lab.outcome import MARKS, interval
from tests.core.test_passes import count, flax, ours

pytestmark = pytest.mark.documents

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(("block", "prints"), [
    (BLOCKS[0], "'batch_stats': {'layers_1': {'mean': (8,), 'var': (8,)}}"),
    (BLOCKS[1], "[0.99999"),
])  # fmt: skip
def test_block_runs_as_it_stands(block, prints, capsys):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(block, "README.md", "exec"), {})
    assert prints in capsys.readouterr().out


def test_no_block_is_left_out():
    assert len(BLOCKS) == 2


def test_links_and_files_exist():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:jaxbn|tests|configs|docs|runs)/[\w./]+)`", TEXT):
        made = path.startswith("runs/")
        assert made or (ROOT / path).exists(), path


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make ([\w-]+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("name", ["plain", "relu"])
def test_the_counts_are_those_of_the_table(name):
    row = {"plain": "forward and backward", "relu": "the same with ReLU"}[name]
    mine, theirs = re.search(rf"{row} \| (\d+) \| (\d+)", TEXT).groups()
    assert sum(count(ours(name), backward=True)) == int(mine)
    assert sum(count(flax(name), backward=True)) == int(theirs)


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
