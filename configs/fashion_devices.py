# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST on two devices, which share batch statistics; averaged weights.

    python -m experiments train configs/fashion_devices.py
    python -m experiments train configs/fashion_devices.py --parallel.mode pmap
    python -m experiments train configs/fashion_devices.py --parallel.mode jit

The network of `fashion_resnet`, mapped by `shard_map`. A CPU is split into two devices.
The averaged weights are scored by statistics of their own.

Cost: 81 s on 2 CPU cores, the median of the three, imports and compilation included.
Expected: of 2,000 test images (seed 0) 86.50 % are right, and by the averaged weights
86.50 (`shard_map`), 86.85 (`pmap`) and 86.50 % (`jit`). The three differ by rounding,
which grows over the steps.
"""

from fashion_resnet import get_config as fashion_resnet

from experiments.config import ExperimentConfig, changed


def get_config() -> ExperimentConfig:
    """Returns the experiment."""
    return changed(
        fashion_resnet(),
        {
            "name": "fashion_devices",
            "train.average_decay": 0.95,
            "parallel.mode": "shard_map",
            "parallel.num_devices": 2,
        },
    )
