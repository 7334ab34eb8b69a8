# SPDX-License-Identifier: Apache-2.0
"""The networks. The norm is a constructor that they take, so that one line swaps it."""

import functools

from flax import linen as nn

from experiments.config import ExperimentConfig, ModelConfig, NormConfig
from experiments.config.experiment import USED_BY
from experiments.models.feedforward import Conv, Dense, Plain
from experiments.models.norms import make_norm
from experiments.models.recurrent import Recurrent, StepGRU
from experiments.models.resnet import RESNETS

NETWORKS = {
    "dense": Dense,
    "conv": Conv,
    "plain": Plain,
    "gru": Recurrent,
    "lstm": functools.partial(Recurrent, cell=nn.OptimizedLSTMCell),
    "step_gru": StepGRU,
    **RESNETS,
}


def make_model(
    config: ExperimentConfig,
    num_classes: int,
    *,
    axis_name: str | None = None,
    num_devices: int | None = None,
) -> nn.Module:
    """Returns the network that the config names.

    Args:
        config: the experiment.
        num_classes: of the data set.
        axis_name: the mapped axis that shards the batch, if a step is mapped.
        num_devices: that share a batch; None: one, with statistics of all of it.
    """
    size, statistics = config.norm.virtual_batch_size, config.parallel.statistics
    if num_devices is not None and statistics != "global":
        group = 1 if statistics == "device" else statistics
        size = group * config.data.batch_size // num_devices
    return _make(
        config.model, config.norm, config.train.dtype, num_classes, axis_name, size
    )


@functools.cache  # one module for each config, so that steps are compiled once
def _make(
    model: ModelConfig,
    norm: NormConfig,
    dtype: str,
    num_classes: int,
    axis_name: str | None,
    virtual_batch_size: int | None,
) -> nn.Module:
    fields = {
        name: getattr(model, name)
        for name, networks in USED_BY.items()
        if model.name in networks
    }
    if "dropout" in fields:  # whose draws depend on the place in the whole batch
        fields["axis_name"] = axis_name
    constructor = make_norm(norm, axis_name, virtual_batch_size)
    return NETWORKS[model.name](
        norm=constructor, num_classes=num_classes, dtype=dtype, **fields
    )
