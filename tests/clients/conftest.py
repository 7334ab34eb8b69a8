# SPDX-License-Identifier: Apache-2.0
"""Programs run as their users run them; the table is printed at the end."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Their warnings are theirs; ours are errors."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("error:::jaxbn"))
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def as_users_run_programs(as_users_run_it, without_type_checker):
    """Implicit promotion; no type checker in front of our checks."""


@pytest.fixture
def table(record_property):
    """Prints the rows of a comparison at the end, and asserts that each is allowed."""

    def add(rows):
        for row in rows:  # pytest-xdist brings properties to the main process
            record_property("row", tuple(row))
        assert not [row for row in rows if not row.ours <= row.allowed]

    return add


def pytest_terminal_summary(terminalreporter) -> None:
    """One line for each group of numbers of each program."""
    reports = [
        r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind)
    ]
    rows = [
        value for r in reports for name, value in r.user_properties if name == "row"
    ]
    if not rows:
        return
    terminalreporter.section("largest differences from the original")
    heads = (
        "allowed",
        "jaxbn from flax",
        "flax in two passes from flax",
        "jaxbn from these",
    )
    texts = ("program", "numbers", "steps", *heads)
    lines = [
        (*map(str, row[:3]), *("-" if n is None else f"{n:.1e}" for n in row[3:]))
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(texts, *lines, strict=True)]
    for line in (texts, *lines):
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        terminalreporter.write_line("  ".join(cells).rstrip())
