# SPDX-License-Identifier: Apache-2.0
"""The networks. A norm reaches them as a constructor, so that one line swaps it."""

import functools

from flax import linen as nn

from experiments.config import ExperimentConfig, NormConfig
from experiments.models.norms import make_norm
from experiments.models.recurrent import RECURRENT
from experiments.models.resnet import RESNETS
from experiments.models.small import Conv, Dense
from experiments.parallel import Parallel

NETWORKS = {"dense": Dense, "conv": Conv, **RECURRENT, **RESNETS}


def make_model(
    config: ExperimentConfig, num_classes: int, parallel: Parallel | None = None
) -> nn.Module:
    """Returns the network that the config names, for a batch cut like that."""
    size, statistics = config.norm.virtual_batch_size, config.parallel.statistics
    if parallel is not None and statistics != "global":
        group = 1 if statistics == "device" else statistics
        size = group * config.data.batch_size // parallel.num_devices
    axis_name = None if parallel is None else parallel.axis_name
    names = config.model.name, config.train.dtype, num_classes
    return _make(names, config.norm, axis_name, size)


@functools.cache  # the same object again, so that nothing is compiled again
def _make(
    names: tuple[str, str, int],
    norm: NormConfig,
    axis_name: str | None,
    virtual_batch_size: int | None,
) -> nn.Module:
    name, dtype, num_classes = names
    constructor = make_norm(norm, axis_name, virtual_batch_size)
    return NETWORKS[name](norm=constructor, num_classes=num_classes, dtype=dtype)
