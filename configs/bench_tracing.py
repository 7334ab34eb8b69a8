# SPDX-License-Identifier: Apache-2.0
"""What jaxbn and Flax cost before a program runs: milliseconds.

    python -m experiments bench configs/bench_tracing.py

Traces and lowers a training step of ResNet-50, with JAX's caches empty, and calls a
layer and its gradient without `jit`, on a batch whose arithmetic takes no time.

Cost: 66 s on 2 CPU cores (11 rounds).
Expected: flax / jaxbn 0.84 to trace and lower, 1.05 for the call and 2.15 for the
gradient.
"""

from experiments.config import BenchConfig


def get_config() -> BenchConfig:
    """Returns the benchmark."""
    return BenchConfig(name="bench_tracing", network="tracing", rounds=7)
