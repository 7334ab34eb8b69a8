# SPDX-License-Identifier: Apache-2.0
"""`export`: the weights of a run as one file that other programs read."""

import dataclasses
from pathlib import Path

import tyro
from rich.console import Console

from experiments.cli.command import Command
from experiments.cli.evaluate import Checkpoint
from experiments.run.folder import make_place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Writes parameters and running statistics of a run as a safetensors file.

    `train` leaves that of its best checkpoint in the run's folder, `best.safetensors`.
    Flax reads it without jaxbn:

        from flax.traverse_util import unflatten_dict
        from safetensors.flax import load_file
        variables = unflatten_dict(load_file("best.safetensors"), sep=".")

    Its metadata has the config, the names of the classes, step and test accuracy.
    """

    usage = "RUN [--checkpoint best|latest|STEP] [--output FILE]"
    folder: tyro.conf.Positional[Path]
    """The folder of the run."""
    checkpoint: Checkpoint = "best"
    """best: by test accuracy; latest; or the step of a checkpoint that is kept."""
    output: Path | None = None
    """The file; RUN/best.safetensors unless given, with the word or the step that names
    the checkpoint."""

    def run(self, console: Console, command: str) -> None:
        """Reads the checkpoint and writes the file."""
        from experiments.train import saved, weights

        run = saved.load(self.folder, self.checkpoint)
        path = self.output or self.folder / f"{self.checkpoint}{weights.SUFFIX}"
        make_place(path)
        weights.export(run, path)
        console.print(
            f"Step {run.step}, test accuracy {run.accuracy:.2%}: {path}",
            soft_wrap=True,
            markup=False,
        )
