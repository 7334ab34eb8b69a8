# SPDX-License-Identifier: Apache-2.0
"""The task of a config: its network and optimizer, over its devices."""

from experiments.config import ExperimentConfig
from experiments.models import make_model
from experiments.train.optimizers import make_optimizer
from experiments.train.parallel import Parallel
from experiments.train.steps import Task


def make_task(config: ExperimentConfig, num_classes: int, parallel: Parallel) -> Task:
    """Returns the task; the config has its length in steps."""
    return Task(
        model=make_model(
            config,
            num_classes,
            axis_name=parallel.axis_name,
            num_devices=parallel.num_devices,
        ),
        optimizer=make_optimizer(config.optimizer, config.train.total_steps),
        label_smoothing=config.train.label_smoothing,
        axis_name=parallel.axis_name,
        sums_gradients=parallel.mode == "pmap",
        average_decay=config.train.average_decay,
    )
