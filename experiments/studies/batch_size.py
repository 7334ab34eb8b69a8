# SPDX-License-Identifier: Apache-2.0
"""Test error by batch size: what batch norm loses in small batches, and what helps.

After Wu & He 2018 (https://arxiv.org/abs/1803.08494), figure 1: as many examples in
all at every size, and a learning rate in proportion to it.
"""

import dataclasses

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from experiments.config import BatchSizeStudy, ExperimentConfig
from experiments.data import Batch, load_dataset
from experiments.models import make_model
from experiments.plots import to_svg
from experiments.report import Picture, Table
from experiments.scanned import train_scanned
from experiments.studies.scoring import accuracy
from experiments.studies.study import Line, Progress, Result, draw_lines, percent

KINDS = {
    "batch": "batch norm",
    "renorm": "batch renorm",
    "group": "group norm",
    "layer": "layer norm",
    "virtual": "batch norm of parts",
}


def run(config: BatchSizeStudy, progress: Progress) -> Result:
    """Trains every norm at every size."""
    sizes = config.batch_sizes
    errors = {kind: np.zeros((config.num_seeds, len(sizes))) for kind in KINDS}
    cells = [(kind, k) for kind in KINDS for k in range(len(sizes))]
    for kind, k in progress(cells, "training"):
        experiment = variant(config.experiment, kind, sizes[k])
        errors[kind][:, k] = _errors(experiment, config.num_seeds)
    return _result(config, errors)


def variant(base: ExperimentConfig, kind: str, batch_size: int) -> ExperimentConfig:
    """The experiment with this norm and batch size, on as many examples.

    `virtual`: with its own batch size, normalized in parts of this one.
    """
    if kind == "virtual":
        norm = dataclasses.replace(base.norm, virtual_batch_size=batch_size)
        return dataclasses.replace(base, norm=norm)
    ratio = batch_size / base.data.batch_size
    rate = base.optimizer.learning_rate * ratio
    num_steps = max(1, round(base.train.num_steps / ratio))
    return dataclasses.replace(
        base,
        norm=dataclasses.replace(base.norm, kind=kind),
        data=dataclasses.replace(base.data, batch_size=batch_size),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=rate),
        train=dataclasses.replace(base.train, num_steps=num_steps),
    )


def _errors(config: ExperimentConfig, num_seeds: int) -> list[float]:
    """Of each seed, on the held-out examples, by running averages."""
    dataset = load_dataset(config.data)
    model = make_model(config, dataset.num_classes)
    states = train_scanned(config, range(num_seeds))
    test = Batch(dataset.test.image, dataset.test.label)
    return [1 - accuracy(model, state, test) for state in states]


def _result(config: BatchSizeStudy, errors: dict[str, np.ndarray]) -> Result:
    """The table, a row for each size, and the figure."""
    sizes = config.batch_sizes
    rows = [
        [str(size), *(percent(values[:, k]) for values in errors.values())]
        for k, size in enumerate(sizes)
    ]
    base = config.experiment
    note = (
        f"Error in % on the held-out digits, means over {config.num_seeds} seeds ± "
        f"standard deviation; {base.data.batch_size * base.train.num_steps} examples "
        f"in all, learning rate {base.optimizer.learning_rate:g} at batch "
        f"{base.data.batch_size} and in proportion elsewhere. Parts: virtual batches "
        f"of that size in a batch of {base.data.batch_size}."
    )
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    draw_lines(axes, sizes, [Line(KINDS[kind], errors[kind]) for kind in KINDS])
    axes.set(xscale="log", xlabel="batch size", ylabel="test error")
    axes.set_xticks(sizes, labels=map(str, sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(100, decimals=0))
    axes.legend()
    return Result(
        title="Test error by batch size",
        summary="The same network with four norms, trained on as many examples at each "
        "batch size.",
        table=Table(["batch size", *KINDS.values()], rows, note),
        figures=[Picture(to_svg(figure), "Bands: one standard deviation over seeds.")],
    )
