# SPDX-License-Identifier: Apache-2.0
"""The guides' blocks run, one after the other, and print what the guides say."""

import contextlib
import io
import re
from pathlib import Path

import jax
import pytest

pytestmark = pytest.mark.documents

DOCS = Path(__file__).parents[2] / "docs"
WITH_STUDIES = ["training_and_inference", "small_batches"]
GUIDES = [*WITH_STUDIES, "differences", "diagnosis", "folding", "parts_of_a_batch"]
BLOCK = re.compile(r"^```python\n(.*?)^```\n\n```\n(.*?)^```", re.DOTALL | re.MULTILINE)


def text_of(guide):
    return (DOCS / f"{guide}.md").read_text("utf-8")


@pytest.mark.usefixtures("without_type_checker")  # as users run them
@pytest.mark.parametrize("guide", GUIDES)
def test_blocks_print_what_follows(guide):
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for code, expected in BLOCK.findall(text_of(guide)):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, guide, "exec"), names)
            assert printed.getvalue() == expected


@pytest.mark.parametrize("guide", GUIDES)
def test_no_block_is_left_out(guide):
    text = text_of(guide)
    assert len(BLOCK.findall(text)) == text.count("```python") > 2


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide):
    text = text_of(guide)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    for target in targets:
        file, _, anchor = target.partition("#")
        there = (DOCS / file).read_text("utf-8") if file else text
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there, re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("guide", WITH_STUDIES)
def test_commands_name_configs_that_exist(guide):
    assert ".svg)" in text_of(guide)
    paths = re.findall(r"configs/[\w/]+\.py", text_of(guide))
    assert paths
    for path in paths:
        assert (DOCS.parent / path).exists()
