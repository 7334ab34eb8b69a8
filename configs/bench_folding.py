# SPDX-License-Identifier: Apache-2.0
"""Inference of ResNet-50: norms of jaxbn, of Flax, and folded into the kernels.

    python -m experiments bench configs/bench_folding.py

The same network on the same images; the three take turns in one process, with the same
memory allocator.

Cost: 69 s on 2 CPU cores, most of which compile and fold.
Expected: the three within 4 % on 2 CPU cores, where XLA fuses a norm into what follows
it: 643, 643 and 620 ms.
"""

from experiments.config import BenchConfig


def get_config() -> BenchConfig:
    """Returns the benchmark."""
    return BenchConfig(
        name="bench_folding",
        network="resnet50",
        step="inference",
        shape=(8, 224, 224, 3),
        rounds=15,
    )
