# SPDX-License-Identifier: Apache-2.0
"""`study`: the runs that test a claim, and its verdict."""

import dataclasses
import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from experiments.cli.command import ConfigCommand, Flag
from experiments.config import IMAGES, Images, StudyConfig, on
from experiments.config.loading import load
from experiments.errors import UserError
from experiments.run import interrupts
from experiments.run.folder import REPORT, locked, resuming
from experiments.run.progress import ProgressBar
from experiments.run.report import print_table, write_figures

if TYPE_CHECKING:
    from experiments.lab.outcome import Outcome
    from experiments.lab.runs_table import RunsTable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(ConfigCommand):
    """Tests the claims of a study: trains its variants, and applies its rules.

    Runs that its folder holds already are not repeated.
    """

    usage = "CONFIG [--images SET] [--workdir DIR] [--num-seeds N] [--overwrite]"
    config: Annotated[
        StudyConfig,
        tyro.conf.arg(name=""),
        tyro.conf.SuppressFixed,
        tyro.conf.AvoidSubcommands,
    ]
    images: Images = "digits"
    """What the networks are trained on. fashion_mnist needs Debian's package
    `dataset-fashion-mnist`."""
    workdir: Path | None = None
    """The folder of the results; runs/lab/NAME unless given, of Fashion-MNIST
    runs/lab/fashion_mnist/NAME."""
    overwrite: Flag = False
    """Replace the runs in the folder."""

    @classmethod
    def of(cls, path: Path) -> "Study":
        """Loads the config."""
        return cls(config=load(path, StudyConfig))

    def run(self, console: Console, command: str) -> None:
        """Makes the runs that are missing, prints the numbers, and writes the page."""
        from experiments.lab.outcome import front_table, write_page

        config = moved(self.config, self.images)
        folder = self.workdir or folder_of(config, self.images, Path("runs/lab"))
        work = [(config, folder, command)]
        (outcome,) = run_studies(console, work, overwrite=self.overwrite)
        write_page(folder / REPORT, config.title, [outcome], command)
        write_figures(folder, config.name, outcome.pictures)
        print_table(console, outcome.numbers)
        print_table(console, front_table([outcome]))
        console.print(f"Report: {folder / REPORT}", soft_wrap=True)


def moved(study: StudyConfig, images: Images) -> StudyConfig:
    """Returns the study on these images.

    Raises:
        UserError: it cannot be moved there.
    """
    try:
        return on(study, images)
    except ValueError as error:
        raise UserError(str(error)) from error


def folder_of(study: StudyConfig, images: Images, place: Path) -> Path:
    """Returns the folder of the study below `place`, which does not name digits."""
    return place / ("" if images == "digits" else images) / study.name


def run_studies(
    console: Console, work: list[tuple[StudyConfig, Path, str]], *, overwrite: bool
) -> list["Outcome"]:
    """Runs one study after the other, with one bar for all.

    Args:
        console: shows the progress.
        work: each study, its folder, and the command that repeats it.
        overwrite: whether to replace the runs in the folders.
    """
    from experiments.lab.conduct import conduct
    from experiments.lab.outcome import conclude
    from experiments.lab.runs_table import RunsTable

    total = sum(len(config.variants) * config.num_seeds for config, *_ in work)
    outcomes = []
    with ProgressBar(console, total) as bar:
        for config, folder, command in work:
            with locked(folder):
                table = RunsTable(folder, config, overwrite=overwrite)
                start, before = time.perf_counter(), len(table.rows)
                runs = len(config.variants) * config.num_seeds
                interrupts.at_end(
                    functools.partial(
                        _kept,
                        console,
                        config.name,
                        table,
                        runs,
                        resuming(overwrite=overwrite),
                    )
                )
                name = config.name
                if config.images != "digits":
                    name = f"{name} on {IMAGES.get(config.images, config.images)}"
                bar.update(name, advance=before)
                bar.line(f"{name}: {runs - before} runs to do")
                conduct(config, table, lambda num: bar.update(advance=num))
                new = len(table.rows) - before
                seconds = time.perf_counter() - start
                console.print(f"{name}: {new} runs in {seconds:.0f} s")
                outcomes.append(conclude(config, table.rows, command))
    return outcomes


def _kept(
    console: Console, name: str, table: "RunsTable", runs: int, command: str, word: str
) -> None:
    console.print(
        f"{word}. {len(table.rows)} of the {runs} runs of {name} are kept; "
        f"{command} resumes.",
        soft_wrap=True,
    )
