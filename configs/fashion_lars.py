# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST with LARS and accumulated gradients.

    python -m experiments train configs/fashion_lars.py

The network of `fashion_resnet`; four batches of 128 make one update.

Cost: 48 s on 2 CPU cores, imports and compilation included.
Expected: 85.40 % of 2,000 test images right (seed 0).
"""

from fashion_resnet import get_config as fashion_resnet

from experiments.config import ExperimentConfig, changed


def get_config() -> ExperimentConfig:
    """Returns the experiment."""
    return changed(
        fashion_resnet(),
        {
            "name": "fashion_lars",
            "optimizer.name": "lars",
            "optimizer.learning_rate": 2.0,
            "optimizer.weight_decay": 1e-4,
            "optimizer.accumulate_steps": 4,
        },
    )
