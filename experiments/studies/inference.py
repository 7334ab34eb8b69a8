# SPDX-License-Identifier: Apache-2.0
"""Early in training: inference by running averages, debiased ones, and the population.

One training run a seed, from which nothing is changed: the three differ only in the
statistics that inference uses.
"""

import dataclasses
import functools
import itertools

import jax
import numpy as np
from flax import linen as nn
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.config import ExperimentConfig, InferenceStudy
from experiments.data import Batch, load_dataset, train_batches
from experiments.models import make_model
from experiments.optimizers import make_optimizer
from experiments.plots import to_svg
from experiments.report import Picture, Table
from experiments.steps import (
    Task,
    TrainState,
    init_state,
    train_step,
    training_forward,
    variables_of,
)
from experiments.studies.scoring import accuracy
from experiments.studies.study import Line, Progress, Result, draw_lines, percent
from jaxbn import population

PLAIN, DEBIASED, WHOLE = "running average", "the same, debiased", "population"
CHUNK = 479  # three batches of the training digits


def run(config: InferenceStudy, progress: Progress) -> Result:
    """Trains each seed with and without `debias`, and evaluates on the way."""
    shape = config.num_seeds, len(config.steps)
    accuracies = {name: np.zeros(shape) for name in (PLAIN, DEBIASED, WHOLE)}
    for seed in progress(range(config.num_seeds), "training"):
        for debias in (False, True):
            norm = dataclasses.replace(config.experiment.norm, debias=debias)
            experiment = dataclasses.replace(config.experiment, norm=norm, seed=seed)
            found = _accuracies(experiment, config.steps)
            if debias:
                accuracies[DEBIASED][seed] = [running for running, _ in found]
            else:
                accuracies[PLAIN][seed], accuracies[WHOLE][seed] = zip(
                    *found, strict=True
                )
    return _result(config, accuracies)


def _accuracies(
    config: ExperimentConfig, steps: tuple[int, ...]
) -> list[tuple[float, float]]:
    """After each of the steps: by running statistics, and by the population's."""
    dataset = load_dataset(config.data)
    model = make_model(config, dataset.num_classes)
    task = Task(model, make_optimizer(config.optimizer, config.train.num_steps))
    step = _compiled(task)
    state = init_state(task, dataset.train.image[:2], config.seed)
    stream = train_batches(dataset.train, config.data, config.seed)
    test = Batch(dataset.test.image, dataset.test.label)
    found = []
    for number, batch in enumerate(itertools.islice(stream, max(steps)), 1):
        state, _ = step(state, batch)
        if number in steps:
            whole = _with_population(model, state, dataset.train)
            pair = (accuracy(model, s, test) for s in (state, whole))
            found.append(tuple(pair))
    return found


@functools.cache  # the same function again, so that nothing is compiled again
def _compiled(task: Task):
    return jax.jit(functools.partial(train_step, task))


def _with_population(model: nn.Module, state: TrainState, train: Batch) -> TrainState:
    """The same weights with the statistics of all training examples."""
    new, _ = population.estimate_linen(
        training_forward(model),
        variables_of(state),
        [train.image[k : k + CHUNK] for k in range(0, len(train.image), CHUNK)],
        layerwise=True,
        progress=False,
    )
    return state._replace(batch_stats=new["batch_stats"])


def _result(config: InferenceStudy, accuracies: dict[str, np.ndarray]) -> Result:
    """The table, a row for each step, and the figure."""
    momentum = config.experiment.norm.momentum
    rows = [
        [str(step), *(percent(values[:, k]) for values in accuracies.values())]
        for k, step in enumerate(config.steps)
    ]
    note = (
        f"Accuracy in % on the held-out digits, means over {config.num_seeds} seeds ± "
        f"standard deviation; momentum {momentum}. Population: the statistics of all "
        "training examples, layer after layer."
    )
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    lines = [Line(name, values) for name, values in accuracies.items()]
    draw_lines(axes, config.steps, lines)
    axes.set(
        xscale="log", xlabel="training step", ylabel="test accuracy", ylim=(0, 102)
    )
    axes.yaxis.set_major_formatter(PercentFormatter(100, decimals=0))
    axes.legend(loc="lower right")
    return Result(
        title="Inference early in training",
        summary="The weights are the same in all three; what differs is the statistics "
        "that inference uses.",
        table=Table(["step", *accuracies], rows, note),
        figures=[Picture(to_svg(figure), "Bands: one standard deviation over seeds.")],
    )
