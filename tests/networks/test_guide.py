# SPDX-License-Identifier: Apache-2.0
"""The guide runs, and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```\n\n```\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_from_pytorch(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "from_pytorch.md").read_text("utf-8")
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("```python")
    assert len(blocks[0][0].strip().splitlines()) <= 20
    names = {}
    for code, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "from_pytorch.md", "exec"), names)
        assert printed.getvalue() == expected
