# SPDX-License-Identifier: Apache-2.0
"""Runs all libraries on all cases, prints the table, writes the documentation."""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["KERAS_BACKEND"] = "jax"

import jax
from rich.console import Console
from rich.progress import track

from tests.comparison import table
from tests.comparison.scenarios import SCENARIOS, SHARDS
from tests.comparison.trial import LIBRARIES, trial

MODULES = {"dm-haiku": "haiku"}


def installed(library) -> bool:
    """Whether its package can be imported."""
    name = MODULES.get(library.package, library.package)
    return importlib.util.find_spec(name) is not None


def what_was_raised(libraries, outcomes):
    """One line for each library and text, with the first case that gave it."""
    seen = {}
    for (title, name), outcome in outcomes.items():
        if outcome.raised:
            seen.setdefault((name, outcome.raised), title)
    return [f"{name}, {title}: `{text}`" for (name, text), title in seen.items()]


def main() -> int:
    """Returns 1 where jaxbn is wrong in any cell."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.comparison", description=__doc__
    )
    parser.add_argument("--output", type=Path, default=Path("docs/comparison.md"))
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    arguments = parser.parse_args()
    output = arguments.output
    console = Console(width=None if sys.stdout.isatty() else 160)
    jax.config.update("jax_num_cpu_devices", SHARDS)
    libraries = [library for library in LIBRARIES if installed(library)]
    missing = [library.name for library in LIBRARIES if library not in libraries]
    outcomes = {}
    for scenario in track(SCENARIOS, "Comparing", console=console, transient=True):
        for library in libraries:
            outcomes[scenario.title, library.name] = trial(library, scenario)
    rows = list(table.rows(SCENARIOS, libraries, outcomes))
    console.print(table.for_terminal(libraries, rows))
    raised = what_was_raised(libraries, outcomes)
    if missing:
        console.print(f"Not installed, not compared: {', '.join(missing)}.")
    else:  # an incomplete table does not replace a complete one
        page = table.for_documentation(libraries, rows, raised)
        output.write_text(page, "utf-8")
        readme = arguments.readme
        readme.write_text(table.with_matrix(readme.read_text("utf-8"), page), "utf-8")
        console.print(f"Written: {output}, and the matrix in {readme}")
    wrong = [f"{case} ({of})" for case, of, cells in rows if cells[0][1] is not True]
    if wrong:
        console.print(f"jaxbn is wrong: {'; '.join(wrong)}.", style="bold red")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
