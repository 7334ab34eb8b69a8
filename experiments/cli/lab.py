# SPDX-License-Identifier: Apache-2.0
"""`lab`: all studies, and one report of their verdicts."""

import dataclasses
from pathlib import Path

from rich.console import Console

from experiments.cli.command import PROGRAM, Command, Flag
from experiments.cli.study import folder_of, moved, run_studies
from experiments.config import Images, StudyConfig
from experiments.config.loading import FOLDER, SHIPPED, known, load
from experiments.errors import UserError
from experiments.run.folder import REPORT
from experiments.run.report import print_table, write_figures

TITLE = "Claims about batch norm, put to the test"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lab(Command):
    """Runs all studies in configs/studies, and writes one report of their verdicts.

    Without that folder here, it runs those that are shipped.
    """

    usage = "[--images SET ...] [--workdir DIR] [--overwrite]"
    images: tuple[Images, ...] = ("digits",)
    """What the networks are trained on; of several, the verdicts are shown side by
    side. fashion_mnist needs Debian's package `dataset-fashion-mnist`."""
    workdir: Path = Path("runs/lab")
    """The folder of the report and of the studies' folders, whose runs are kept."""
    overwrite: Flag = False
    """Replace the runs in the studies' folders."""

    def run(self, console: Console, command: str) -> None:
        """Runs the studies, or what is missing, and writes one page about all."""
        from experiments.lab.outcome import (
            VERDICTS,
            front_table,
            write_page,
            write_verdicts,
        )

        studies = [
            (typed, load(path, StudyConfig))
            for typed, (path, _) in known().items()
            if path.is_relative_to(_studies())
        ]
        work = [
            (
                config,
                folder_of(config, images, self.workdir),
                f"{PROGRAM} study {typed}{option}",
            )
            for typed, study in studies
            for images in dict.fromkeys(self.images)
            if images == "digits" or study.probe != "cost"
            for config in [moved(study, images)]
            for option in ["" if images == "digits" else f" --images {images}"]
        ]
        if not work:
            raise UserError("There is no study in configs/studies/.")
        outcomes = run_studies(console, work, overwrite=self.overwrite)
        write_page(self.workdir / REPORT, TITLE, outcomes, command)
        write_verdicts(self.workdir / VERDICTS, outcomes)
        for outcome, (study, folder, _) in zip(outcomes, work, strict=True):
            write_figures(folder, study.name, outcome.pictures)
        print_table(console, front_table(outcomes))
        console.print(f"Verdicts: {self.workdir / VERDICTS}", soft_wrap=True)
        console.print(f"Report: {self.workdir / REPORT}", soft_wrap=True)


def _studies() -> Path:
    own = FOLDER / "studies"
    return own if own.is_dir() else SHIPPED / "studies"
