# SPDX-License-Identifier: Apache-2.0
"""Tables on the console, and self-contained HTML pages."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from experiments.errors import printable
from experiments.run.folder import write_atomically
from experiments.run.provenance import in_words, provenance


class Table(NamedTuple):
    """Cells as text, and a sentence that explains them."""

    header: list[str]
    rows: list[list[str]]
    note: str
    title: str = ""


class Picture(NamedTuple):
    """An SVG element and its caption."""

    svg: str
    caption: str


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Prints what the user should know, each note as a line."""
    for note in notes:
        console.print(Text(printable(note)), soft_wrap=True)


def print_table(console: Console, table: Table) -> None:
    """Prints the title, the cells, numbers aligned to the right, and the note."""
    # As `Text`, since names of files may look like Rich's markup, `[red]`.
    shown = RichTable(title=Text(table.title) if table.title else None)
    for number, name in enumerate(table.header):
        numeric = any(row[number][:1].isdigit() for row in table.rows)
        justify = "right" if numeric else "left"
        shown.add_column(Text(name), justify=justify, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    console.print(shown)
    console.print(table.note, style="dim")


def write_report(
    path: Path,
    *,
    title: str,
    summary: str,
    table: Table,
    figures: list[Picture],
    command: str,
    next_steps: Sequence[tuple[str, str]] = (),
) -> None:
    """Writes a page: a sentence, a table, figures, and the command that repeats it.

    Then what to try next, each step with its command.
    """
    write_page(
        path,
        "report.html",
        title=title,
        summary=summary,
        table=table,
        figures=figures,
        command=command,
        next_steps=next_steps,
    )


def write_page(path: Path, template: str, **fields: Any) -> None:
    """Renders a template of `templates/`, adds the provenance, and writes the file."""
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.run"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    made = f"{in_words(provenance())}."
    page = templates.get_template(template).render(provenance=made, **fields)
    # Names of files may have bytes that are no text, which UTF-8 has no place for.
    write_atomically(path, page.encode("utf-8", "backslashreplace").decode())


def write_figures(folder: Path, name: str, pictures: list[Picture]) -> None:
    """Writes NAME.svg; further pictures are NAME1.svg, NAME2.svg, ..."""
    for number, picture in enumerate(pictures):
        write_atomically(folder / f"{name}{number or ''}.svg", picture.svg)
