# SPDX-License-Identifier: Apache-2.0
"""`plan`: what a training step will take on hardware that is not there."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from experiments.cli.command import ConfigCommand
from experiments.config import ExperimentConfig
from experiments.config.loading import load
from experiments.errors import UserError
from experiments.hardware.targets import Target, find, parse, valid_names
from experiments.run.progress import ProgressBar
from experiments.run.report import Table, print_notes, print_table

if TYPE_CHECKING:
    from experiments.hardware.programs import Costs, TooLarge


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(ConfigCommand):
    """Compiles a training step for a TPU or GPU that is not there, and shows its costs.

    Memory, traffic and collectives on each device, with jaxbn's norm and with Flax's:
    predictions of the compiler, not measurements. The data need not be there. Needs the
    extra `hardware`.
    """

    usage = "CONFIG --hardware NAME [--num-classes K] [--FIELD.SUBFIELD VALUE ...]"
    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    hardware: str | None = None
    """Kind and layout of a TPU, or kind and number of GPUs: v2:2x2, v3:2x2, v4:2x2x1,
    v5e:4x4, v5p:2x2x1, v6e:4x4, tpu7x:2x2x1, a100:8, h100:8, h200:8, and other layouts
    and numbers. All its devices share the batch."""
    num_classes: int | None = None
    """Classes of the data; None: as its files or its name tell."""

    @classmethod
    def of(cls, path: Path) -> "Plan":
        """Loads the config."""
        return cls(config=load(path, ExperimentConfig))

    def __post_init__(self):
        """Checks the number of classes."""
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(f"`--num-classes` must be >= 1, got {self.num_classes}.")

    def run(self, console: Console, command: str) -> None:
        """Compiles the step with each norm, and prints the table."""
        if self.hardware is None:
            raise UserError(f"`plan` takes --hardware NAME: one of {valid_names()}.")
        parse(self.hardware)
        target = find(self.hardware)
        from experiments.data.shapes import shapes_of
        from experiments.hardware import training

        config = training.on(target, self.config)
        shapes = shapes_of(config.data, self.num_classes)
        print_notes(console, [*shapes.notes, *_notes(self.config)])
        found: dict[str, Costs | TooLarge] = {}
        flops: dict[str, float] = {}
        with ProgressBar(console, None, target.name) as bar:
            for step in training.steps(target, config, shapes):
                doing = f"{config.name}: compiling for {target.name}, norm {step.norm}"
                bar.update(doing)
                bar.line(doing)
                found[step.norm] = training.compiled(target, step)
                if target.card is not None:
                    flops[step.norm] = training.flops_of(step)
        print_table(console, _table(target, config, found, flops))


def _notes(config: ExperimentConfig) -> list[str]:
    """Returns what is planned otherwise than the config has it."""
    from experiments.hardware.training import why_without_flax

    notes = []
    if config.parallel.mode == "pmap":
        notes.append("pmap cannot be compiled ahead of time: shard_map is, instead.")
    if (reason := why_without_flax(config)) is not None:
        notes.append(f"Without a column for Flax's norm, since {reason}.")
    return notes


def _table(
    target: Target,
    config: ExperimentConfig,
    found: "dict[str, Costs | TooLarge]",
    flops: dict[str, float],
) -> Table:
    """Returns a row for each figure, a column for each norm."""
    columns = [
        _figures(target, config, costs, flops.get(norm))
        for norm, costs in found.items()
    ]
    names = list(dict.fromkeys(name for column in columns for name in column))
    num = len(target.devices)
    return Table(
        ["on each device", *found],
        [[name, *(column.get(name, "-") for column in columns)] for name in names],
        "Predictions of the compiler, not measurements.",
        title=f"A training step of {config.name}, {config.data.batch_size} examples in "
        f"{config.train.dtype}, {config.parallel.mode} over {num} devices of "
        f"{target.name}",
    )


def _figures(
    target: Target,
    config: ExperimentConfig,
    costs: "Costs | TooLarge",
    flops: float | None,
) -> dict[str, str]:
    """Returns the cells of a column, by the names of their rows."""
    from experiments.hardware.programs import TooLarge

    if isinstance(costs, TooLarge):
        return {"memory": f"too large: needs {costs.needed}iB of {costs.room}iB"}
    share = costs.peak / target.memory
    figures = {
        "memory: arguments": _size(costs.arguments),
        "memory: outputs": _size(costs.outputs),
        "memory: temporary": _size(costs.temp),
        "memory: together": f"{_size(costs.peak)}, {share:.1%} of "
        f"{_size(target.memory)}{'; too large' if share > 1 else ''}",
        "bytes accessed": _size(costs.traffic),
    }
    if costs.cycles is not None:
        figures["estimated cycles"] = f"{costs.cycles / 1e6:,.4g} million"
    if target.card is not None and flops is not None:
        card = target.card
        by_memory = 1e3 * costs.traffic / card.bandwidth
        by_flops = 1e3 * flops / card.flops[config.train.dtype]
        figures["operations"] = f"{flops / 1e9:,.4g} GFLOP"
        figures["roofline time"] = (
            f"{max(by_memory, by_flops):.4g} ms: memory {by_memory:.4g}, "
            f"arithmetic {by_flops:.4g}"
        )
    for kind, (num, size) in costs.collectives.items():
        figures[kind] = f"{num}, {_size(size)}"
    return figures


def _size(num_bytes: float) -> str:
    from rich.filesize import decimal

    return decimal(int(num_bytes))
