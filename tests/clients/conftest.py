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
    """Takes the rows of a comparison; pytest-xdist brings them to the main process."""

    def add(rows):
        for row in rows:
            record_property("row", tuple(row))

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
    texts = ("program", "numbers", "steps", "jaxbn", "flax in two passes")
    widths = [max(len(str(row[k])) for row in (texts, *rows)) for k in range(3)]
    for row in (texts, *rows):
        cells = [str(cell).ljust(w) for cell, w in zip(row, widths, strict=False)]
        numbers = [n if isinstance(n, str) else f"{n:.1e}" for n in row[3:]]
        terminalreporter.write_line("  ".join(cells + [n.ljust(7) for n in numbers]))
