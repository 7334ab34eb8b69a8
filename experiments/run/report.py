# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page: a sentence, a table, curves, how to repeat it."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import NamedTuple

import jax
import jinja2
from rich.console import Console
from rich.table import Table as RichTable

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("experiments.run"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)
LIBRARIES = ("jaxbn", "jax", "flax", "optax")


class Table(NamedTuple):
    """Cells as text, with a sentence that explains them."""

    header: list[str]
    rows: list[list[str]]
    note: str


class Picture(NamedTuple):
    """An SVG element and its caption."""

    svg: str
    caption: str


def print_table(console: Console, table: Table) -> None:
    """Prints the cells, numbers to the right, and the sentence."""
    shown = RichTable()
    for number, name in enumerate(table.header):
        words = not table.rows or not table.rows[0][number][:1].isdigit()
        shown.add_column(name, justify="left" if words else "right")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)
    console.print(table.note, style="dim")


def provenance() -> str:
    """Says when, with what and on what the numbers were made."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    device = jax.devices()[0]
    return (
        f"{datetime.date.today().isoformat()}, Python {platform.python_version()}, "
        f"{', '.join(versions)}; {device.platform} ({device.device_kind}), "
        f"{os.cpu_count()} cores, {platform.machine()}."
    )


def write_report(
    path: Path,
    *,
    title: str,
    summary: str,
    table: Table,
    figures: list[Picture],
    command: str,
) -> None:
    """Writes the page, whole or not at all."""
    html = TEMPLATES.get_template("report.html").render(
        title=title,
        summary=summary,
        table=table,
        figures=figures,
        command=command,
        provenance=provenance(),
    )
    write_whole(path, html)


def write_figures(folder: Path, name: str, pictures: list[Picture]) -> None:
    """Writes NAME.svg, and NAME1.svg and so on if there are more."""
    for number, picture in enumerate(pictures):
        write_whole(folder / f"{name}{number or ''}.svg", picture.svg)


def write_whole(path: Path, text: str) -> None:
    """Writes the file, whole or not at all."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text, "utf-8")
    unfinished.replace(path)
