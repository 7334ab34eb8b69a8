# SPDX-License-Identifier: Apache-2.0
"""The experiments that the studies begin with: small, on digits, ten epochs."""

from experiments.config.data import DataConfig
from experiments.config.experiment import ExperimentConfig
from experiments.config.model import ModelConfig
from experiments.config.optimizer import OptimizerConfig
from experiments.config.train import TrainConfig

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
