# SPDX-License-Identifier: Apache-2.0
"""How a dry run is shown: the network's table, memory, and the next batch."""

from typing import TYPE_CHECKING

from rich.console import Console

from experiments.config import ExperimentConfig
from experiments.run.report import Table, print_table

if TYPE_CHECKING:
    from experiments.data import Batch
    from experiments.train.dry_run import DryRun

CLASSES = 20
"""In a batch of more classes, the examples of each are not counted."""


def show_dry_run(console: Console, config: ExperimentConfig, dry: "DryRun") -> None:
    """Prints what the run will be."""
    steps, size = config.train.total_steps, config.data.batch_size
    memory = ", ".join(f"{name} {_size(size)}" for name, size in dry.memory.items())
    console.print(
        f"{config.name}: {steps} steps of {size} examples, "
        f"{steps * size / dry.num_train:.1f} epochs of {dry.num_train}; "
        f"{dry.num_test} test examples.",
        soft_wrap=True,
        markup=False,
    )
    print_table(console, _table(config, dry))
    console.print(f"Memory of a device: {memory}.", soft_wrap=True)
    console.print(_described(dry.batch), soft_wrap=True)


def _table(config: ExperimentConfig, dry: "DryRun") -> Table:
    params = sum(layer.num_params for layer in dry.layers)
    statistics = sum(layer.num_statistics for layer in dry.layers)
    return Table(
        ["layer", "kind", "output", "parameters", "statistics"],
        [
            [layer.path, layer.kind, layer.output]
            + [f"{n:,}" if n else "-" for n in (layer.num_params, layer.num_statistics)]
            for layer in dry.layers
        ],
        f"{params:,} parameters and {statistics:,} running statistics in the layers "
        "that have any; outputs for two images.",
        title=f"The network {config.model.name}, norm {config.norm.kind}",
    )


def _described(batch: "Batch") -> str:
    """Returns what is in a batch, in sentences."""
    import numpy as np

    count = slice(None) if batch.mask is None else np.asarray(batch.mask)
    image, label = np.asarray(batch.image)[count], np.asarray(batch.label)[count]
    shape = " x ".join(map(str, batch.image.shape))
    classes, counts = np.unique(label, return_counts=True)
    text = (
        f"The next batch of this process: {image.dtype} {shape}, "
        f"from {image.min():.3g} to {image.max():.3g}, mean {image.mean():.3g}, "
        f"standard deviation {image.std():.3g}"
    )
    if batch.mask is not None:
        text += f"; {len(label)} of {len(batch.label)} rows hold examples"
    if len(classes) > CLASSES:
        return f"{text}; {len(classes)} classes."
    found = ", ".join(f"{c}: {n}" for c, n in zip(classes, counts, strict=True))
    return f"{text}; examples by label {found}."


def _size(num_bytes: int) -> str:
    from rich.filesize import decimal

    return decimal(num_bytes)
