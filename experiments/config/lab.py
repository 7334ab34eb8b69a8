# SPDX-License-Identifier: Apache-2.0
"""What the studies vary: small networks, trained on digits for ten epochs."""

from collections.abc import Mapping
from typing import Any

from experiments.config.experiment import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from experiments.config.studies import Changes, How, Measure, Variant, grid

_DATA = DataConfig(batch_size=32, num_train=1280)
_TRAIN = TrainConfig(num_steps=400, eval_every=20)

LAB_DENSE = ExperimentConfig(
    name="lab_dense",
    data=_DATA,
    model=ModelConfig(name="dense", hidden=(64, 32)),
    optimizer=OptimizerConfig(learning_rate=0.1),
    train=_TRAIN,
)
"""64 and 32 hidden units, SGD with learning rate 0.1."""
LAB_CONV = ExperimentConfig(
    name="lab_conv",
    data=_DATA,
    model=ModelConfig(name="conv", hidden=(8,), convolution="patches"),
    optimizer=OptimizerConfig(learning_rate=0.1),
    train=_TRAIN,
)
"""One convolution of 3x3 with 8 channels, SGD with learning rate 0.1."""


def in_both_networks(axes: Mapping[str, Mapping[Any, Changes]]) -> tuple[Variant, ...]:
    """Returns the grid in each network; the first setting is `network`."""
    networks = {"dense": LAB_DENSE, "conv": LAB_CONV}
    return tuple(
        variant
        for name, experiment in networks.items()
        for variant in grid(experiment, {"network": {name: {}}, **axes})
    )


def trains(norm: str, how: How, along: str) -> Measure:
    """Returns the largest value of a setting that trains with a norm, or how many do.

    A network trains if at least 90 % of the held-out digits are right in the end.
    """
    return Measure(
        column="test_accuracy",
        where=(("norm", norm),),
        how=how,
        along=along,
        reaching=0.9,
    )
