# SPDX-License-Identifier: Apache-2.0
"""Test-time adaptation: new statistics for corrupted digits, the weights as they were.

For each batch of unlabelled test images the statistics are estimated anew, layer after
layer, and mixed with those of training (Schneider et al. 2020,
https://arxiv.org/abs/2006.16971).
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.config import AdaptationStudy
from experiments.data import Batch, Dataset, load_dataset
from experiments.lab.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from experiments.lab.drawing import Line, Progress, Result, draw_lines, percent
from experiments.lab.scoring import accuracy
from experiments.models import make_model
from experiments.run.plots import to_svg
from experiments.run.report import Picture, Table
from experiments.train.scanned import train_scanned
from experiments.train.steps import TrainState, training_forward, variables_of
from jaxbn import population

SOURCE = "as trained"
Accuracies = dict[str, dict[str, np.ndarray]]
"""By corruption and method, (seeds, severities); severity 0 is the image as it is."""


def label(prior_count: float) -> str:
    """What adaptation with this prior is called."""
    return f"adapted, prior {prior_count:g}"


def run(config: AdaptationStudy, progress: Progress) -> Result:
    """Trains, corrupts, adapts, and scores."""
    dataset = load_dataset(config.experiment.data)
    states = train_scanned(
        config.experiment, progress(range(config.num_seeds), "training")
    )
    accuracies = {
        kind: {
            method: np.zeros((config.num_seeds, 1 + len(SEVERITIES)))
            for method in (SOURCE, *map(label, config.prior_counts))
        }
        for kind in CORRUPTIONS
    }
    cells = [
        (kind, severity, seed)
        for kind in CORRUPTIONS
        for severity in (0, *SEVERITIES)
        for seed in range(config.num_seeds)
    ]
    for kind, severity, seed in progress(cells, "adapting"):
        found = _accuracies(config, dataset, states[seed], (kind, severity, seed))
        for method, value in found.items():
            accuracies[kind][method][seed, severity] = value
    return _result(config, accuracies)


def _accuracies(
    config: AdaptationStudy,
    dataset: Dataset,
    state: TrainState,
    cell: tuple[str, int, int],
) -> dict[str, float]:
    """By method: as trained, and adapted with each prior."""
    model = make_model(config.experiment, dataset.num_classes)
    kind, severity, seed = cell
    image, label_ = dataset.test.image, dataset.test.label
    if severity:
        image = corrupt(np.asarray(image), kind, severity, seed)
    found = {SOURCE: accuracy(model, state, Batch(image, label_))}
    for prior_count in config.prior_counts:
        right = 0.0
        for start in range(0, len(label_), config.batch_size):
            rows = slice(start, start + config.batch_size)
            adapted, _ = population.estimate_linen(
                training_forward(model),
                variables_of(state),
                [image[rows]],
                layerwise=True,
                prior_count=prior_count,
                progress=False,
            )
            new = state._replace(batch_stats=adapted["batch_stats"])
            batch = Batch(image[rows], label_[rows])
            right += accuracy(model, new, batch) * len(batch.label)
        found[label(prior_count)] = right / len(label_)
    return found


def _result(config: AdaptationStudy, accuracies: Accuracies) -> Result:
    """The table, a row for each corruption and severity, and the figure."""
    methods = [SOURCE, *map(label, config.prior_counts)]
    rows = [
        [kind, str(severity), *(percent(by[m][:, severity]) for m in methods)]
        for kind, by in accuracies.items()
        for severity in (0, *SEVERITIES)
    ]
    note = (
        f"Accuracy in % on the held-out digits, means over {config.num_seeds} seeds ± "
        f"standard deviation. Adapted: statistics of {config.batch_size} unlabelled "
        "images at a time, mixed with those of training as if these came from so many "
        "images."
    )
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (kind, by) in zip(
        figure.subplots(1, len(accuracies), sharey=True),
        accuracies.items(),
        strict=True,
    ):
        draw_lines(axes, (0, *SEVERITIES), [Line(m, by[m]) for m in methods])
        axes.set(title=kind, xlabel="severity", ylim=(0, 102))
        axes.yaxis.set_major_formatter(PercentFormatter(100, decimals=0))
    figure.axes[0].set_ylabel("test accuracy")
    figure.axes[0].legend(loc="lower left")
    return Result(
        title="Test-time adaptation on corrupted digits",
        summary="The weights stay as they were trained on clean digits. For each batch "
        "of corrupted ones, which nobody labelled, the statistics of the batch norms "
        "are estimated anew.",
        table=Table(["corruption", "severity", *methods], rows, note),
        figures=[Picture(to_svg(figure), "Bands: one standard deviation over seeds.")],
    )
