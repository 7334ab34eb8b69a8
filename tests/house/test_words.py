# SPDX-License-Identifier: Apache-2.0
"""One vocabulary, in plain English: words that this project does not use."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    r"mend(s|ed|ing)?": "fix, repair",
    r"beside": "next to",
    r"so many": "this many",
    r"(go|goes|going|went|gone) on": "resume, continue",
    r"(of )?the own": "its own",
    r"said": "given, named",
    r"whole or not at all": "completely or not at all",
    r"movements?": "tangent, change",
    r"anew": "again",
    r"what there is": "name it",
    r"what stands there|stands there": "is stored there",
    r"inverse deviation": "reciprocal deviation, rho",
}
PATTERN = re.compile(rf"\b({'|'.join(FORBIDDEN)})\b", re.IGNORECASE)
HERE = {"tests/house/test_words.py", "CHANGELOG.md", "docs/comparison.md"}


def texts():
    for pattern in ("*.md", "Makefile", ".ci/run", "docs/*.md"):
        yield from ROOT.glob(pattern)
    for folder in ("jaxbn", "jaxbn_experiments", "experiments", "configs", "tests"):
        for kind in ("py", "md", "html"):
            yield from (ROOT / folder).rglob(f"*.{kind}")


@pytest.mark.parametrize(
    "folder", ["jaxbn", "jaxbn_experiments", "experiments", "configs", "tests", ""]
)
def test_words(folder):
    """In names, comments, docstrings, messages and guides."""
    found = []
    for path in texts():
        name = path.relative_to(ROOT).as_posix()
        room = name.split("/")[0] if name.count("/") else ""
        room = "" if room in ("docs", ".ci") else room
        if room != folder or name in HERE:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if match := PATTERN.search(line.replace("_", " ")):
                found.append(f"{name}:{number}: {match[0]}: {line.strip()}")
    assert not found, "\n".join(found)
