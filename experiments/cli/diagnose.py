# SPDX-License-Identifier: Apache-2.0
"""`diagnose`: what is wrong with the batch norms of a run."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.cli.command import Command
from experiments.cli.evaluate import Checkpoint
from experiments.config.ranges import LIMIT
from experiments.errors import UserError
from experiments.run.folder import DIAGNOSIS, make_place, write_atomically


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnose(Command):
    """Looks for faults in the batch norms of a run, layer by layer.

    Training batches go through the network of a checkpoint. The findings, each with its
    figure, its ground and the line that fixes it, are printed and written as a page.
    The exit status is 1 if there is an error or a warning.
    """

    usage = "RUN [--checkpoint best|latest|STEP] [--output FILE]"
    folder: tyro.conf.Positional[Path]
    """The folder of the run."""
    checkpoint: Checkpoint = "best"
    """best: by test accuracy; latest; or the step of a checkpoint that is kept."""
    num_batches: int = 16
    """Training batches, those that would have come next, at least 2."""
    output: Path | None = None
    """The page; RUN/diagnosis.html unless given."""
    data_path: Annotated[str | None, tyro.conf.arg(name="data.path")] = None
    """The folder of the data, if it is not where the run had it."""

    def run(self, console: Console, command: str) -> int:
        """Reads the checkpoint, diagnoses it, prints and writes the page."""
        from experiments.train import diagnosis, saved

        if self.num_batches < 2:
            raise UserError(f"`num_batches` must be >= 2, got {self.num_batches}.")
        if self.num_batches >= LIMIT:
            raise UserError(f"`num_batches` must be < {LIMIT}, got {self.num_batches}.")
        run = saved.load(self.folder, self.checkpoint, path=self.data_path)
        path = self.output or self.folder / DIAGNOSIS
        make_place(path)
        found = diagnosis.diagnose(run, self.num_batches)
        write_atomically(path, found.html())
        console.print(found)
        note = f"Step {run.step} of {self.folder}: {path}"
        console.print(note, soft_wrap=True, markup=False)
        return 1 if found.alarms else 0
