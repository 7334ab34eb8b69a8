# SPDX-License-Identifier: Apache-2.0
"""A plugin of pytest: jaxbn in the place of Flax's batch norm, and what came of it.

It runs inside the sessions that `python -m tests.flax_suite` starts.
"""

import json
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.flax_suite.source import choose_tests

ONE_VALUE = "`x` has one value per feature in training"


def pytest_addoption(parser):
    group = parser.getgroup("Flax's tests")
    group.addoption("--norm", choices=["flax", "jaxbn"], required=True)
    group.addoption("--outcomes", type=Path, required=True)


def pytest_configure(config):
    if config.getoption("--norm") == "jaxbn":
        put_jaxbn_in_place_of_flax()
        # Flax's tests take every warning for an error, and where jaxbn warns that a
        # batch of one example teaches nothing, Flax is silent.
        config.addinivalue_line("filterwarnings", f"ignore:{ONE_VALUE}")
    config.pluginmanager.register(Outcomes(config.getoption("--outcomes")))


def put_jaxbn_in_place_of_flax():
    """In every module of Flax that has its class, before a test is imported."""
    import flax.linen
    import flax.nnx

    import jaxbn.linen
    import jaxbn.nnx

    ours = {
        flax.linen.BatchNorm: jaxbn.linen.BatchNorm,
        flax.nnx.BatchNorm: jaxbn.nnx.BatchNorm,
    }
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "flax":
            for attribute, value in list(vars(module).items()):
                if isinstance(value, type) and value in ours:
                    setattr(module, attribute, ours[value])


@cache
def _chosen(path: Path) -> set[tuple[str, str]]:
    return choose_tests(path.read_text())


def _uses_batch_norm(item: pytest.Function) -> bool:
    """Whether the test is chosen, with whatever absl adds to its name."""
    owners = [cls.__name__ for cls in item.cls.__mro__] if item.cls else [""]
    return any(
        owner in owners and item.name.startswith(name)
        for owner, name in _chosen(item.path)
    )


def pytest_collection_modifyitems(config, items):
    """Leaves the tests that use batch norm."""
    chosen = [item for item in items if _uses_batch_norm(item)]
    config.hook.pytest_deselected(items=[i for i in items if i not in chosen])
    items[:] = chosen


class Outcomes:
    """What came of each test, for a file: `""` or its error in short."""

    def __init__(self, path: Path):
        self.path = path
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport):
        """A test passes if its call does, and its setup, parts and teardown do too."""
        if report.failed:
            self.outcomes[report.nodeid] = _in_short(report)
        elif report.passed and report.when == "call":
            self.outcomes.setdefault(report.nodeid, "")

    def pytest_collectreport(self, report: pytest.CollectReport):
        if report.failed:
            self.outcomes[report.nodeid] = _in_short(report)

    def pytest_sessionfinish(self):
        self.path.write_text(json.dumps(self.outcomes, indent=1))


def _in_short(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Two lines of an error, whose first NumPy leaves empty; of an import the last."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else str(report.longrepr)).split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    return " ".join(lines[:2] if crash else lines[-1:])
