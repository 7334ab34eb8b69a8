# SPDX-License-Identifier: Apache-2.0
"""A bar where a person is watching, and nothing elsewhere."""

import pytest

from jaxbn._population.progress import shown, silent


@pytest.mark.parametrize("watching", [True, False])
def test_shown(watching, capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if watching else "0")
    assert list(shown([1, 2, 3], "pass 1")) == [1, 2, 3]
    printed = capsys.readouterr()
    assert ("pass 1" in printed.err) == watching
    assert printed.out == ""


def test_silent(capsys):
    assert list(silent([1, 2], "pass 1")) == [1, 2]
    assert capsys.readouterr() == ("", "")
