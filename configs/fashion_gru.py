# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST, row by row: a GRU with batch norm before and after it, Adam.

    python -m experiments train configs/fashion_gru.py

The images and the number of steps of `fashion_resnet`.

Cost: 13 s on 2 CPU cores, imports and compilation included.
Expected: 85.35 % of 2,000 test images right (seed 0).
"""

import dataclasses

from fashion_resnet import get_config as fashion_resnet

from experiments.config import ExperimentConfig, ModelConfig, OptimizerConfig


def get_config() -> ExperimentConfig:
    """Returns the experiment."""
    return dataclasses.replace(
        fashion_resnet(),
        name="fashion_gru",
        model=ModelConfig(name="gru"),
        optimizer=OptimizerConfig(name="adam", learning_rate=0.003, schedule="cosine"),
    )
