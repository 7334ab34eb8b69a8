# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits, a dense network of 128 and 64 units with batch norm.

    python -m experiments train configs/digits_dense.py

The network of the introductions to batch norm; `--norm.kind none` trains it without.

Cost: 8 s on 2 CPU cores, nearly all of it imports and compilation.
Expected: 97.96 % of the held-out digits right (sd 0.70 over seeds 0 to 2; `make demo`).
"""

from experiments.config import ExperimentConfig, ModelConfig


def get_config() -> ExperimentConfig:
    """Returns the experiment."""
    return ExperimentConfig(name="digits_dense", model=ModelConfig(name="dense"))
