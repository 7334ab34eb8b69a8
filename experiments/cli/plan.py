# SPDX-License-Identifier: Apache-2.0
"""`plan`: what a training step will take on hardware that is not there."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro
from rich.console import Console

from experiments.cli.command import ConfigCommand
from experiments.config import ExperimentConfig
from experiments.config.loading import load
from experiments.errors import UserError
from experiments.hardware.targets import Target, find, valid_names
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
        target = find(self.hardware)
        from experiments.data.shapes import shapes_of
        from experiments.hardware import training

        config = training.on(target, self.config)
        shapes = shapes_of(config.data, self.num_classes)
        what = (
            f"A training step of {config.data.batch_size} examples in "
            f"{config.train.dtype}, by {config.parallel.mode} over "
            f"{len(target.devices)} devices of {target.name}."
        )
        print_notes(console, [what, *shapes.notes, *_notes(self.config)])
        found: dict[str, Costs | TooLarge] = {}
        flops: dict[str, float] = {}
        with ProgressBar(console, None, target.name) as bar:
            for step in training.steps(target, config, shapes):
                doing = f"{config.name}: compiling for {target.name}, norm {step.norm}"
                bar.update(doing)
                bar.line(doing)
                found[step.norm] = training.compiled(target, step)
                if target.card is not None:  # whose compiler does not count them
                    flops[step.norm] = training.flops_of(step)
        print_table(console, table_of(target, config, found, flops))


def _notes(config: ExperimentConfig) -> list[str]:
    """Returns what is planned otherwise than the config has it."""
    from experiments.hardware.training import why_without_flax

    notes = []
    if config.parallel.mode == "pmap":
        notes.append("pmap cannot be compiled ahead of time: shard_map is, instead.")
    if (reason := why_without_flax(config)) is not None:
        notes.append(f"Without a column for Flax's norm, since {reason}.")
    return notes


class Figure(NamedTuple):
    """A number, and how it is shown."""

    value: float
    text: str


def table_of(
    target: Target,
    config: ExperimentConfig,
    found: "dict[str, Costs | TooLarge]",
    flops: dict[str, float],
) -> Table:
    """Returns a row for each figure, a column for each norm, and one of ratios.

    Args:
        target: the hardware.
        config: what is planned.
        found: by norm.
        flops: by norm, the operations of each device; of GPUs only.
    """
    columns = [
        _figures(target, config, costs, flops.get(norm))
        for norm, costs in found.items()
    ]
    names = list(dict.fromkeys(name for column in columns for name in column))
    header, rows = ["on each device", *found], []
    for name in names:
        figures = [column.get(name) for column in columns]
        row = [name, *(figure.text if figure else "-" for figure in figures)]
        if len(columns) == 2:
            row.append(_ratio(*figures))
        rows.append(row)
    if len(columns) == 2:
        header.append(" / ".join(found))
    return Table(
        header,
        rows,
        _note(target, config),
        title=f"{config.name} on {target.name}",
    )


def _ratio(ours: Figure | None, other: Figure | None) -> str:
    """Returns the cell of the last column."""
    if ours is None or other is None or not other.value:
        return "-"
    return f"{ours.value / other.value:.3f}"


def _note(target: Target, config: ExperimentConfig) -> str:
    """Returns what the figures are."""
    text = f"Predictions from what {target.compiler} compiles, not measurements."
    if target.card is None:
        return text
    card, dtype = target.card, config.train.dtype
    return (
        f"{text} Bytes are counted over the compiled kernels. Time by memory: the "
        f"bytes at {card.bandwidth / 1e12:.4g} TB/s; by arithmetic: the operations at "
        f"{card.flops[dtype] / 1e12:.4g} TFLOP/s. A step takes no less than the longer "
        "of them, and then its collectives."
    )


def _figures(
    target: Target,
    config: ExperimentConfig,
    costs: "Costs | TooLarge",
    flops: float | None,
) -> dict[str, Figure]:
    """Returns the figures of a column, by the names of their rows."""
    from experiments.hardware.programs import TooLarge

    if isinstance(costs, TooLarge):
        return _memory(costs.needed, costs.room)
    figures = {
        **_memory(costs.peak, target.memory),
        "  arguments": _size(costs.arguments),
        "  outputs": _size(costs.outputs),
        "  temporary": _size(costs.temp),
        "bytes accessed": _size(costs.traffic),
    }
    if costs.cycles is not None:
        figures["estimated cycles"] = Figure(costs.cycles, f"{costs.cycles:,}")
    if target.card is not None and flops is not None:
        figures["operations"] = Figure(flops, f"{flops / 1e9:,.4g} GFLOP")
        card, dtype = target.card, config.train.dtype
        figures["time by memory"] = _time(costs.traffic / card.bandwidth)
        figures["time by arithmetic"] = _time(flops / card.flops[dtype])
    for kind, (num, size) in sorted(costs.collectives.items()):
        figures[f"{kind}s"] = Figure(num, f"{num}")
        figures[f"{kind} bytes"] = _size(size)
    return figures


def _memory(num_bytes: int, room: int) -> dict[str, Figure]:
    """Returns the memory taken, and its part of the memory of a device."""
    share = num_bytes / room
    text = f"{share:.1%}{', too large' if share > 1 else ''}"
    return {"memory": _size(num_bytes), f"  of {_size(room).text}": Figure(share, text)}


def _time(seconds: float) -> Figure:
    text = f"{1e3 * seconds:.4g} ms" if seconds > 1e-4 else f"{1e6 * seconds:.3g} µs"
    return Figure(seconds, text)


def _size(num_bytes: float) -> Figure:
    from rich.filesize import decimal

    return Figure(num_bytes, decimal(int(num_bytes)))
