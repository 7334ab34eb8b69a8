# SPDX-License-Identifier: Apache-2.0
"""A probe after training: accuracy on corrupted images, with and without adaptation.

To adapt a network to a batch of unlabelled test images, the statistics of its batch
norms are estimated from these images, layer after layer, and mixed with those of
training; the weights stay as they are (Schneider et al. 2020,
https://arxiv.org/abs/2006.16971).
"""

from collections.abc import Iterator

import jax
import numpy as np

from experiments.config import AdaptationConfig, StudyConfig
from experiments.data import Batch
from experiments.lab.corruptions import corrupt
from experiments.lab.runs_table import SEED, Row, missing
from experiments.train.evaluation import with_population_stats
from experiments.train.scanned import (
    in_memory,
    make_task,
    program_config,
    train_scanned,
)
from experiments.train.steps import Task, TrainState, eval_step

evaluate = jax.jit(eval_step, static_argnums=0)


def rows(study: StudyConfig, found: list[Row]) -> Iterator[list[Row]]:
    """Yields the missing rows, a variant at a time; each network is trained once."""
    for experiment in dict.fromkeys(variant.experiment for variant in study.variants):
        variants = [v for v in study.variants if v.experiment == experiment]
        todo = {v.settings: missing(study, v, found) for v in variants}
        seeds = sorted(set().union(*todo.values()))
        if not seeds:
            continue
        task = make_task(program_config(experiment))
        states = dict(zip(seeds, train_scanned(experiment, seeds), strict=True))
        test = in_memory(experiment).test
        for variant in filter(lambda v: todo[v.settings], variants):
            assert variant.adaptation is not None
            yield [
                {
                    **dict(variant.settings),
                    SEED: seed,
                    "test_accuracy": accuracy(
                        task, states[seed], test, variant.adaptation, seed
                    ),
                }
                for seed in todo[variant.settings]
            ]


def accuracy(
    task: Task, state: TrainState, test: Batch, config: AdaptationConfig, seed: int
) -> float:
    """Returns the fraction of the corrupted test images that are classified right."""
    image = corrupt(np.asarray(test.image), config.corruption, config.severity, seed)
    if config.batch_size is None:
        return float(evaluate(task, state, Batch(image, test.label)).accuracy)
    right = 0.0
    for start in range(0, len(image), config.batch_size):
        rows = slice(start, start + config.batch_size)
        batch = Batch(image[rows], test.label[rows])
        new = with_population_stats(
            task.model, state, [batch], prior_count=config.prior_count
        )
        right += float(evaluate(task, new, batch).accuracy) * len(batch.label)
    return right / len(image)
