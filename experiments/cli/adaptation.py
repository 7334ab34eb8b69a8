# SPDX-License-Identifier: Apache-2.0
"""`study` of test-time adaptation: prints its table, leaves a page and figures."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from experiments.config import AdaptationStudy
from experiments.lab import adaptation
from experiments.run.folder import REPORT
from experiments.run.report import print_table, write_figures, write_report


def adapt(
    console: Console, config: AdaptationStudy, workdir: Path, command: str
) -> None:
    """Runs the study."""
    workdir.mkdir(parents=True, exist_ok=True)

    def progress(items: Iterable[Any], title: str) -> Iterable[Any]:
        if not console.is_terminal:
            console.print(f"{config.name}: {title}", soft_wrap=True)
        hidden = not console.is_terminal
        return track(items, title, console=console, transient=True, disable=hidden)

    result = adaptation.run(config, progress)
    print_table(console, result.table)
    write_figures(workdir, config.name, result.figures)
    write_report(
        workdir / REPORT,
        title=result.title,
        summary=result.summary,
        table=result.table,
        figures=result.figures,
        command=command,
    )
    console.print(f"Report: {workdir / REPORT}", soft_wrap=True)
