# SPDX-License-Identifier: Apache-2.0
"""`study`: runs one study, prints its table, and leaves a page and figures."""

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from experiments.config import (
    AdaptationStudy,
    BatchSizeStudy,
    InferenceStudy,
    StudyConfig,
)
from experiments.report import print_table, write_report
from experiments.run_folder import REPORT

MODULES: dict[type[StudyConfig], str] = {
    AdaptationStudy: "adaptation",
    BatchSizeStudy: "batch_size",
    InferenceStudy: "inference",
}


def study(console: Console, config: StudyConfig, workdir: Path, command: str) -> None:
    """Runs the study of this kind of config."""
    workdir.mkdir(parents=True, exist_ok=True)
    module = importlib.import_module(f"experiments.studies.{MODULES[type(config)]}")

    def progress(items: Iterable[Any], title: str) -> Iterable[Any]:
        if not console.is_terminal:
            console.print(f"{config.name}: {title}", soft_wrap=True)
        hidden = not console.is_terminal
        return track(items, title, console=console, transient=True, disable=hidden)

    result = module.run(config, progress)
    print_table(console, result.table)
    for number, picture in enumerate(result.figures):
        name = f"{config.name}{number or ''}.svg"
        (workdir / name).write_text(picture.svg, "utf-8")
    write_report(
        workdir / REPORT,
        title=result.title,
        summary=result.summary,
        table=result.table,
        figures=result.figures,
        command=command,
    )
    console.print(f"Report: {workdir / REPORT}", soft_wrap=True)
