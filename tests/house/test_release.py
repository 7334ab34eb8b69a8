# SPDX-License-Identifier: Apache-2.0
"""The citation and the hosted checks agree with the code."""

import re
from pathlib import Path

import jaxbn

ROOT = Path(__file__).parents[2]


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == jaxbn.__version__


def test_hosted_checks_are_those_that_must_pass():
    """Each `make` of `.ci/run`, and nothing else."""
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    ours = (ROOT / ".ci" / "run").read_text()
    target = r"^[^#]*?\bmake (?:VENV=\S+ )?([a-z][\w-]*)"
    hosted = {*re.findall(target, workflow, re.MULTILINE)}
    local = {*re.findall(target, ours, re.MULTILINE)}
    assert hosted == local and "test" in hosted
