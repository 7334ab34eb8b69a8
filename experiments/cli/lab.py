# SPDX-License-Identifier: Apache-2.0
"""`study` runs one study, `lab` all of them, with one report."""

import time
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.config import StudyConfig
from experiments.errors import UserError
from experiments.lab.conduct import conduct
from experiments.lab.outcome import (
    VERDICTS,
    Outcome,
    conclude,
    front_table,
    write_page,
    write_verdicts,
)
from experiments.lab.runs_table import RunsTable
from experiments.run.folder import REPORT, locked
from experiments.run.report import print_table, write_figures

TITLE = "Claims about batch norm, put to the test"


def study(
    console: Console,
    config: StudyConfig,
    folder: Path,
    command: str,
    *,
    overwrite: bool = False,
) -> None:
    """Runs what is missing of one study, prints its numbers, and writes its page."""
    outcome = _run(console, [(config, folder, command)], overwrite)[0]
    write_page(folder / REPORT, config.title, [outcome], command)
    write_figures(folder, config.name, outcome.pictures)
    print_table(console, outcome.numbers)
    print_table(console, front_table([outcome]))
    console.print(f"Report: {folder / REPORT}", soft_wrap=True)


def lab(
    console: Console,
    studies: list[tuple[StudyConfig, Path]],
    folder: Path,
    command: str,
    *,
    overwrite: bool = False,
) -> None:
    """Runs the studies, each given with its config's path; writes one page for all."""
    if not studies:
        raise UserError("There is no study in configs/studies/.")
    work = [
        (config, folder / config.name, f"python -m experiments study {path}")
        for config, path in studies
    ]
    outcomes = _run(console, work, overwrite)
    write_page(folder / REPORT, TITLE, outcomes, command)
    write_verdicts(folder / VERDICTS, outcomes)
    for outcome in outcomes:
        name = outcome.study.name
        write_figures(folder / name, name, outcome.pictures)
    print_table(console, front_table(outcomes))
    console.print(f"Verdicts: {folder / VERDICTS}", soft_wrap=True)
    console.print(f"Report: {folder / REPORT}", soft_wrap=True)


def _run(
    console: Console, work: list[tuple[StudyConfig, Path, str]], overwrite: bool
) -> list[Outcome]:
    """Runs one study after the other, with one progress bar for all."""
    total = sum(len(config.variants) * config.num_seeds for config, *_ in work)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    outcomes = []
    with bar:
        task = bar.add_task("", total=total)
        for config, folder, command in work:
            with locked(folder):
                table = RunsTable(folder, config, overwrite=overwrite)
                bar.update(task, description=config.name, advance=len(table.rows))
                start, before = time.perf_counter(), len(table.rows)
                if not console.is_terminal:
                    runs = len(config.variants) * config.num_seeds - before
                    console.print(f"{config.name}: {runs} runs to do")
                conduct(config, table, lambda num: bar.advance(task, num))
                new = len(table.rows) - before
                seconds = time.perf_counter() - start
                console.print(f"{config.name}: {new} runs in {seconds:.0f} s")
                outcomes.append(conclude(config, table.rows, command))
    return outcomes
