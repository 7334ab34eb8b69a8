# SPDX-License-Identifier: Apache-2.0
"""Training runs per minute: the laboratory, and a loop of PyTorch on the same cores.

    python -m experiments bench configs/bench_lab.py

The dense network of the studies, 400 steps with batches of 32 and 20 evaluations, the
same batches in both. The laboratory's time includes its compilation; PyTorch has a
process for each core, already warm. PyTorch is timed if it is installed (`make compare`
installs it).

Cost: 238 s on 2 CPU cores.
Expected: 6.4 times as many runs a minute as PyTorch, on 2 CPU cores.
"""

from experiments.config import BenchConfig


def get_config() -> BenchConfig:
    """Returns the benchmark."""
    return BenchConfig(name="bench_lab", network="lab", num_runs=500, rounds=3)
