# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10, ResNet-18, statistics over all devices.

    python -m experiments train configs/cifar10_resnet18.py --data.path FOLDER

FOLDER holds the files of https://www.cs.toronto.edu/~kriz/cifar.html, the binary or the
Python version, unpacked. Crops and mirrored images, momentum, cosine schedule, weight
decay on kernels only.

Cost: not run here; 78,200 steps of 128 images, hours on one accelerator.
Expected: He et al. 2015 (https://arxiv.org/abs/1512.03385, section 4.2) have 91 to
93.6 % of the test images right with thinner networks of this kind; not verified here.
"""

from experiments.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

STEPS_PER_EPOCH = 391


def get_config() -> ExperimentConfig:
    """Returns the experiment."""
    return ExperimentConfig(
        name="cifar10_resnet18",
        data=DataConfig(
            name="cifar10",
            path="data/cifar10",
            batch_size=128,
            crop_padding=4,
            flip=True,
        ),
        model=ModelConfig(name="resnet18"),
        optimizer=OptimizerConfig(
            name="momentum",
            learning_rate=0.1,
            schedule="cosine",
            warmup_steps=5 * STEPS_PER_EPOCH,
            weight_decay=5e-4,
        ),
        train=TrainConfig(
            num_epochs=200,
            eval_every=STEPS_PER_EPOCH,
            log_every=100,
            checkpoint_every=5 * STEPS_PER_EPOCH,
        ),
    )
