# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits, a convolution of 32 channels with batch norm.

    python -m experiments train configs/digits_conv.py

The convolutional network of the introductions; `--norm.kind none` trains it without.

Cost: 7 s on 2 CPU cores, nearly all of it imports and compilation.
Expected: 97.69 % of the held-out digits right (sd 0.16 over seeds 0 to 2; `make demo`).
"""

from experiments.config import ExperimentConfig, ModelConfig


def get_config() -> ExperimentConfig:
    """Returns the experiment."""
    return ExperimentConfig(name="digits_conv", model=ModelConfig(name="conv"))
