# SPDX-License-Identifier: Apache-2.0
"""What each command takes, as tyro reads it."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.config import BenchConfig, ExperimentConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Trains what a config file says, with these fields changed."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """The run's folder; runs/NAME unless given."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace a run that the folder holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Times one layer as a config file says, with these fields changed."""

    config: Annotated[BenchConfig, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """The folder of the results; runs/NAME unless given. Earlier ones are replaced."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyArguments:
    """Puts the claims of a config file to the test; what is asked stays as it is."""

    num_seeds: int
    """Runs of each variant, paired by seed, at least 1; verdicts take 10 or more."""
    first_seed: int
    """The others follow it."""
    num_workers: int | None
    """Variants that run at once; None: as many as there are cores."""
    workdir: Path | None = None
    """The folder of the results; runs/lab/NAME unless given. Runs in it count."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace the runs that the folder holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabArguments:
    """Runs all studies in configs/studies, and writes one report of their verdicts."""

    workdir: Path = Path("runs/lab")
    """The folder of the report and of the studies' folders; runs in them count."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace the runs that they hold."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Draws the curves of one or several runs side by side, on one page."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The folders of the runs."""
    output: Path = Path("runs/report.html")
    """The page."""

    def __post_init__(self):
        """Checks that there is one."""
        if not self.runs:
            raise ValueError("`report` takes at least one run's folder.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """Trains two networks on handwritten digits, with and without batch norm."""

    workdir: Path = Path("runs/demo")
    """The folder of the report and of the runs' folders; runs of an earlier demo in it
    are replaced."""
