# SPDX-License-Identifier: Apache-2.0
"""A training step of ResNet-50, with jaxbn's norm and Flax's: images per second.

    python -m experiments bench configs/bench_resnet50.py

The same network, optimizer and step; only the norm differs. The two take turns in one
process, with the same memory allocator. Memory is what the compiled program holds:
arguments, results and temporaries.

Cost: 113 s on 2 CPU cores, most of which compiles.
Expected: flax / jaxbn 1.13, and memory of 1.10 GB against 1.44 GB on 2 CPU cores.
"""

from experiments.config import BenchConfig


def get_config() -> BenchConfig:
    """Returns the benchmark."""
    return BenchConfig(
        name="bench_resnet50", network="resnet50", shape=(8, 224, 224, 3), rounds=7
    )
