# SPDX-License-Identifier: Apache-2.0
"""Accuracy on corrupted digits, as trained and adapted at test time.

    python -m experiments study configs/studies/adaptation.py

Trains the dense network on digits, then corrupts the held-out ones (noise, blur,
contrast, and a shift of brightness, at five severities). As trained: inference by the
statistics of training. Adapted: the statistics of 36 unlabelled corrupted images at a
time, alone (prior 0) or with those of training as if from 16 images (Schneider et al.
2020, https://arxiv.org/abs/2006.16971).

Cost: 12 s on 2 CPU cores.
Expected: at the strongest shift of brightness 28 % right as trained, 98 % adapted; at
the least contrast 16 and 89 %; noise is not mended.
"""

from experiments.config import AdaptationStudy, ExperimentConfig


def get_config() -> AdaptationStudy:
    """Returns the study."""
    experiment = ExperimentConfig(name="digits")
    return AdaptationStudy(name="adaptation", experiment=experiment)
