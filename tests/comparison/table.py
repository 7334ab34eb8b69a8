# SPDX-License-Identifier: Apache-2.0
"""The table of outcomes, for the terminal and for the documentation."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterator

from rich.table import Table

from tests.comparison.scenarios import Scenario
from tests.comparison.trial import QUANTITIES, Library, Outcome

Outcomes = dict[tuple[str, str], Outcome]
"""By the titles of scenarios and the names of libraries."""

INTRODUCTION = """\
# jaxbn and its peers

Written by `make compare`, which runs every library on the same batches, each as its
documentation says, and holds it against a batch norm in NumPy float64. A cell is the
largest error; **bold** is wrong: more than rounding explains, NaN, or an error raised
where there is an answer. A dash: the library has no such feature.

- *output*: of the first step, where positions count; *gradients*: of input, scale and
  bias for a loss that leaves out what does not count, against the largest of each;
- *statistics*: what inference uses after all steps (three, unless the case says
  otherwise), by the library's own rule, the mean against |mean| + sd, the variance
  against itself; *evaluation*: the first batch in inference, against its largest value.
- Right is at most 1e-5 in float32, 1e-12 in float64 (running statistics: 1e-5), four
  units of the format in bfloat16 (3e-2) and float16 (4e-3). Half precision is rounded
  once in the output; Flax returns float32 there. One value per channel is to be
  refused, or warned of: its variance says nothing.
- Batch renorm: corrections of at most 1.5 and 4 in the first step; jaxbn keeps the
  variance, Keras the deviation, each held against its own rule.
- The statistics of the population: of three batches whose means differ, by
  `jaxbn.population` and by `torch.optim.swa_utils.update_bn`, which averages variances.
- Four shards are devices under `shard_map` with the batch cut over them; for equinox,
  an axis of `vmap`. Keras on JAX and PyTorch on a CPU do not synchronise.
"""


def rows(
    scenarios: list[Scenario], libraries: list[Library], outcomes: Outcomes
) -> Iterator[tuple[str, str, list[tuple[str, bool | None]]]]:
    """Case, quantity, and by library the text of its cell and whether it is right."""
    for scenario in scenarios:
        found = [outcomes[scenario.title, library.name] for library in libraries]
        quantities = ("refused",) if scenario.refuse else QUANTITIES
        for quantity in quantities:
            cells = [cell(scenario, quantity, outcome) for outcome in found]
            yield scenario.title, quantity, cells


def cell(scenario, quantity, outcome):
    """The text of a cell and whether it is right."""
    if scenario.refuse:
        right = outcome.right(scenario, "")
        return ("yes" if right else outcome.raised or "no"), right
    right = outcome.right(scenario, quantity)
    if outcome.raised:
        return outcome.raised.partition(":")[0], right
    if right is None:
        return "-", None
    error = outcome.errors[quantity]
    return ("NaN" if error == float("inf") else f"{error:.0e}"), right


def for_terminal(libraries: list[Library], all_rows) -> Table:
    """Right in green, wrong in red with a mark."""
    table = Table(title="Largest errors against float64")
    for heading in ("case", "of", *(library.name for library in libraries)):
        table.add_column(heading)
    styles = {True: "[green]{}[/]", False: "[bold red]{} ![/]", None: "{}"}
    last = None
    for title, quantity, cells in all_rows:
        first = title if title != last else ""
        if first and last is not None:
            table.add_section()
        last = title
        table.add_row(first, quantity, *(styles[ok].format(t) for t, ok in cells))
    return table


def for_documentation(libraries: list[Library], all_rows, raised: list[str]) -> str:
    """Markdown: what is compared, the table, what was raised, what it was run with."""
    names = [library.name for library in libraries]
    lines = [
        INTRODUCTION,
        "| case | of | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    last = None
    for title, quantity, cells in all_rows:
        texts = [f"**{text}**" if ok is False else text for text, ok in cells]
        first = title if title != last else ""
        lines.append(f"| {first} | {quantity} | {' | '.join(texts)} |")
        last = title
    if raised:
        lines += ["", "Raised:", "", *(f"- {text}" for text in raised)]
    return "\n".join([*lines, "", provenance(libraries), ""])


MATRIX = {
    "float32": "an ordinary batch",
    "mean / sd 1e4": "a mean of 1e4 deviations",
    "constant channels of 17.7": "features that are constant",
    "padding of NaN": "NaN in masked padding",
    "nothing counts": "a batch of padding alone",
    "4 shards, uneven counts": "a mask, over 4 devices",
}
"""The cases of the README, and what it calls them."""
PEERS = {
    "jaxbn": ["jaxbn"],
    "flax": ["flax.linen", "flax.nnx"],
    "haiku": ["haiku"],
    "equinox": ["equinox"],
    "keras": ["keras"],
    "torch": ["torch"],
}
BEGIN, END = "<!-- matrix: written by `make compare` -->\n", "<!-- end of matrix -->\n"


def with_matrix(readme: str, page: str) -> str:
    """The README with the matrix of the written comparison."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{matrix(page)}{END}{after}"


def matrix(page: str) -> str:
    """Right, wrong or NaN, by case and peer: of all quantities, the worst."""
    names, cases = parse(page)
    lines = [f"| float32 | {' | '.join(PEERS)} |", "|---" * (len(PEERS) + 1) + "|"]
    for title, meaning in MATRIX.items():
        found = {peer: [] for peer in PEERS}
        for peer, libraries in PEERS.items():
            for cells in cases[title]:
                found[peer] += [cells[names.index(library)] for library in libraries]
        lines.append(f"| {meaning} | {' | '.join(map(_worst, found.values()))} |")
    return "\n".join([*lines, ""])


def parse(page: str) -> tuple[list[str], dict[str, list[list[str]]]]:
    """The libraries of the written comparison, and the rows of cells of each case."""
    rows = [line[2:-2].split(" | ") for line in page.splitlines() if line[:2] == "| "]
    (_, _, *names), title, cases = rows[0], "", {}
    for case, _, *cells in rows[1:]:
        title = case.strip() or title
        cases.setdefault(title, []).append(cells)
    return names, cases


def _worst(cells: list[str]) -> str:
    """What the README says of a case, from the cells of all its quantities."""
    wrong = [text.strip("*") for text in cells if text.startswith("**")]
    if "NaN" in wrong:
        return "**NaN**"
    if wrong:
        errors = [float(text) for text in wrong if text[0].isdigit()]
        return f"**wrong**, {max(errors):.0e}" if errors else "**raises**"
    return "-" if {*cells} == {"-"} else "right"


def provenance(libraries: list[Library]) -> str:
    """Date, versions and machine."""
    packages = dict.fromkeys(["jax", *(library.package for library in libraries)])
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
    machine = f"{os.cpu_count()}-core {platform.machine()}"
    today = datetime.date.today().isoformat()
    python = platform.python_version()
    return f"({today}, {machine}, Python {python}, {versions}.)"
