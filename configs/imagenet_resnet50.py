# SPDX-License-Identifier: Apache-2.0
"""ImageNet, ResNet-50 v1.5, 90 epochs at batch 1024, statistics over all devices.

    python -m experiments train configs/imagenet_resnet50.py --data.path FOLDER

FOLDER holds `train` and `val`, each with a folder of images for each of the 1,000
classes (https://www.image-net.org/download.php). The recipe is that of Goyal et al.
2017 (https://arxiv.org/abs/1706.02677) with label smoothing and a cosine schedule,
computed in bfloat16. `--parallel.statistics device` keeps the statistics of each device
apart, as they had it.

Cost: not run here; 112,680 steps of 1,024 images.
Expected: Flax's example of the same network, with 100 epochs, reports 76.3 to 76.7 % of
the validation images right (https://github.com/google/flax/tree/main/examples/imagenet);
not verified here.
"""

from experiments.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

STEPS_PER_EPOCH = 1252


def get_config() -> ExperimentConfig:
    """Returns the experiment."""
    return ExperimentConfig(
        name="imagenet_resnet50",
        data=DataConfig(
            name="image_folder",
            path="data/imagenet",
            batch_size=1024,
            image_size=224,
            flip=True,
            num_threads=16,
        ),
        model=ModelConfig(name="resnet50"),
        optimizer=OptimizerConfig(
            name="momentum",
            learning_rate=0.4,
            schedule="cosine",
            warmup_steps=5 * STEPS_PER_EPOCH,
            weight_decay=1e-4,
        ),
        train=TrainConfig(
            num_epochs=90,
            eval_every=STEPS_PER_EPOCH,
            log_every=100,
            checkpoint_every=STEPS_PER_EPOCH,
            label_smoothing=0.1,
            dtype="bfloat16",
        ),
    )
