# SPDX-License-Identifier: Apache-2.0
"""The comparison tells right from wrong; all of it, with all peers: `make compare`."""

from pathlib import Path

import pytest

from tests.comparison import table
from tests.comparison.scenarios import SCENARIOS
from tests.comparison.trial import LIBRARIES, trial

pytestmark = [pytest.mark.documents, pytest.mark.usefixtures("as_users_run_it")]

BY_TITLE = {scenario.title: scenario for scenario in SCENARIOS}
BY_NAME = {library.name: library for library in LIBRARIES}


def cells(library, title):
    """Whether each cell of a case is right."""
    outcomes = {(title, library): trial(BY_NAME[library], BY_TITLE[title])}
    found = table.rows([BY_TITLE[title]], [BY_NAME[library]], outcomes)
    return [right for _, _, [(_, right)] in found]


@pytest.mark.parametrize("title", BY_TITLE)
def test_jaxbn_is_right_in_every_case(title):
    assert all(cells("jaxbn", title))


@pytest.mark.parametrize("library", ["flax.linen", "flax.nnx"])
@pytest.mark.parametrize(
    ("title", "right"),
    [
        ("float32", [True] * 4),
        ("mean / sd 1e4", [False] * 4),
        ("one value per channel", [False]),
        ("4 shards", [True] * 4),
        ("4 shards, uneven counts", [False] * 4),
        ("2 groups of 2 shards", [False] * 4),
        ("padding of NaN", [True, False, True, True]),
    ],
)
def test_flax(library, title, right):
    assert cells(library, title) == right


def test_torch_has_no_masks():
    assert cells("torch", "masked examples") == [None] * 4


def test_the_documentation_is_of_these_cases_and_libraries():
    text = (Path(__file__).parents[2] / "docs" / "comparison.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[0][2:] == [*list(BY_NAME)[:-1], list(BY_NAME)[-1] + " |"]
    assert [row[0][2:] for row in rows[1:] if row[0] != "| "] == list(BY_TITLE)
    assert "**" not in "".join(row[2] for row in rows)  # jaxbn's column
