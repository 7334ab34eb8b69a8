# SPDX-License-Identifier: Apache-2.0
"""The README's code runs, its links lead somewhere, its commands and figures exist."""

import json
import re
from pathlib import Path

import jax
import pytest

from experiments.lab.outcome import interval
from tests.comparison import table

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


def test_a_reader_sees_what_is_wrong_elsewhere_and_code_within_forty_lines():
    assert len(TEXT.replace("|", " ").split()) <= 900
    start = TEXT.splitlines()[:40]
    for part in ("| jaxbn | flax |", "pip install", "BatchNorm(", "make demo"):
        assert any(part in line for line in start), part


def test_links_and_files_exist():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:jaxbn|tests|configs|docs|runs)/[\w./]+)`", TEXT):
        made = path.startswith("runs/")
        assert made or (ROOT / path).exists(), path


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^    make ([\w-]+)", TEXT, re.MULTILINE)
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_matrix_is_that_of_the_comparison():
    page = (ROOT / "docs" / "comparison.md").read_text("utf-8")
    assert table.with_matrix(TEXT, page) == TEXT
    assert TEXT.count("| right |") >= len(table.MATRIX)
    cases = table.parse(page)[1]
    assert f"[All {len(cases)} cases]" in TEXT


def test_the_laboratory_found_what_the_readme_says():
    written = json.loads((ROOT / "docs" / "verdicts.json").read_text("utf-8"))
    digits, fashion = (
        {found["claim"]: found for found in written if found["images"] == images}
        for images in ("digits", "fashion_mnist")
    )
    rates = digits["Batch norm allows learning rates at least 3 times as high."]
    assert interval(rates["effect"], *rates["interval"], "times") in TEXT
    text = " ".join(TEXT.split())
    sentence = (
        f"put {len(digits)} claims about batch norm to the test, {len(fashion)} of them"
    )
    assert sentence in text and fashion.keys() < digits.keys()
