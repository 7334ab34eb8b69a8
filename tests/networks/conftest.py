# SPDX-License-Identifier: Apache-2.0
"""Networks are run as their users run them."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """These files import what only the environment of `make networks` has."""
    return None if config.getoption("markexpr") == "networks" else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings of other libraries are theirs; ours are errors."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.networks)
            item.add_marker(pytest.mark.filterwarnings("error:::jaxbn"))
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def as_users_run_networks(as_users_run_it, without_type_checker):
    """Implicit promotion; no type checker in front of our checks."""


@pytest.fixture(params=["linen", "nnx"])
def kind(request):
    return request.param
