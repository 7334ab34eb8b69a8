# SPDX-License-Identifier: Apache-2.0
"""Whole training runs in the laboratory, and in a loop of PyTorch, on the same cores.

The same network, data, batches, steps and evaluations. The laboratory's time includes
its compilation; PyTorch has a process for each core, already warm.
"""

import contextlib
import functools
import importlib
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from experiments.bench.timing import Benchmark, has_torch
from experiments.config import (
    LAB_DENSE,
    BenchConfig,
    ExperimentConfig,
    FigureConfig,
    StudyConfig,
    grid,
    values,
)
from experiments.data import load_dataset, rows_of_step
from experiments.lab.conduct import conduct
from experiments.lab.runs_table import RunsTable

Runs = Callable[[], float]
"""Trains all runs, and returns the mean of their final test accuracies."""


def study_of(num_runs: int) -> StudyConfig:
    """Returns the study: batch norm, ten seeds at each of several learning rates."""
    num_rates = max(1, num_runs // 10)
    rates = tuple(round(0.1 + 0.001 * k, 3) for k in range(num_rates))
    figure = FigureConfig(
        x="rate", y="test_accuracy", lines="rate", label="accuracy", caption=""
    )
    return StudyConfig(
        name="bench",
        variants=grid(LAB_DENSE, {"rate": values("optimizer.learning_rate", rates)}),
        claims=(),
        figure=figure,
        num_seeds=min(10, num_runs),
    )


def benchmarks(config: BenchConfig) -> Iterator[Benchmark]:
    """Yields the one benchmark; PyTorch's processes end after it."""
    accuracy: dict[str, float] = {}

    def noted(name: str, runs: Runs) -> None:
        accuracy[name] = runs()

    with contextlib.ExitStack() as stack:
        made = {"jaxbn": lab_runs(config.num_runs)}
        if has_torch():
            made["torch"] = stack.enter_context(torch_runs(config.num_runs))
        calls = {n: functools.partial(noted, n, runs) for n, runs in made.items()}
        yield Benchmark("training runs", calls, {"accuracy": accuracy}, warm_up=0)


def lab_runs(num_runs: int) -> Runs:
    """Returns the runs as `study` does them, compilation and table included."""

    def run() -> float:
        study = study_of(num_runs)
        with tempfile.TemporaryDirectory() as folder:
            table = RunsTable(Path(folder), study, overwrite=False)
            conduct(study, table, lambda num: None)
        return fmean(row["test_accuracy"] for row in table.rows)

    return run


@contextlib.contextmanager
def torch_runs(num_runs: int) -> Iterator[Runs]:
    """Yields the runs in a process for each core, each with one thread."""
    study = study_of(num_runs)
    seeds = range(study.num_seeds)
    work = [(v.experiment, seed) for v in study.variants for seed in seeds]
    cores = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, mp_context=context) as pool:
        list(pool.map(train_torch, work[: 2 * cores]))  # imports, and warms up
        yield lambda: fmean(pool.map(train_torch, work))


def train_torch(work: tuple[ExperimentConfig, int]) -> float:
    """Trains the dense network with one seed; returns the final test accuracy."""
    config, seed = work
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    dataset = load_dataset(config.data)
    train, test = (
        (torch.from_numpy(np.asarray(s.image)).flatten(1), torch.tensor(s.label).long())
        for s in (dataset.train, dataset.test)
    )
    model = _torch_network(torch, config, train[0].shape[1], dataset.num_classes)
    optimizer = torch.optim.SGD(model.parameters(), config.optimizer.learning_rate)
    accuracy = 0.0
    for step in range(config.train.total_steps):
        rows = rows_of_step(len(train[1]), config.data.batch_size, seed, step)
        chosen = torch.from_numpy(rows)
        loss = torch.nn.functional.cross_entropy(
            model(train[0][chosen]), train[1][chosen]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % config.train.eval_every == 0:
            model.eval()
            with torch.no_grad():
                right = model(test[0]).argmax(1) == test[1]
            accuracy = float(right.float().mean())
            model.train()
    return accuracy


def _torch_network(
    torch: Any, config: ExperimentConfig, width: int, classes: int
) -> Any:
    """Returns the dense network; PyTorch's momentum is 1 minus ours."""
    layers = []
    for units in config.model.hidden or ():
        norm = torch.nn.BatchNorm1d(
            units, eps=config.norm.epsilon, momentum=1 - config.norm.momentum
        )
        layers += [torch.nn.Linear(width, units), norm, torch.nn.ReLU()]
        width = units
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, classes))
