# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST on two devices, which share batch statistics; averaged weights.

    python -m experiments train configs/fashion_devices.py
    python -m experiments train configs/fashion_devices.py --parallel.mode pmap
    python -m experiments train configs/fashion_devices.py --parallel.mode jit

The network of `fashion_resnet`, mapped by `shard_map`. A CPU is split into two devices.
The averaged weights are scored by statistics of their own.

Cost: 132 s (`shard_map`), 149 s (`pmap`) and 133 s (`jit`) of CPU time, imports and
compilation included.
Expected: 86.50 % of 2,000 test images right (seed 0) by all three; by the averaged
weights 86.50 (`shard_map`, `jit`) and 86.85 % (`pmap`), since rounding grows over the
steps.
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
