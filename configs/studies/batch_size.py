# SPDX-License-Identifier: Apache-2.0
"""Test error by batch size: batch norm, renorm, group, layer, parts.

    python -m experiments study configs/studies/batch_size.py

Trains the dense network on digits with batches of 2 to 64, as many examples at each,
the learning rate in proportion (Wu & He 2018, https://arxiv.org/abs/1803.08494).

Cost: 2 minutes on 2 CPU cores.
Expected: at batch 2 17 % errors with batch norm, 6 % with batch renorm, 2 % with group
and layer norm; about 2 % with each from 8 on.
"""

from experiments.config import BatchSizeStudy, ExperimentConfig, NormConfig


def get_config() -> BatchSizeStudy:
    """Returns the study."""
    experiment = ExperimentConfig(
        name="digits", norm=NormConfig(momentum=0.99, debias=True)
    )
    return BatchSizeStudy(name="batch_size", experiment=experiment)
