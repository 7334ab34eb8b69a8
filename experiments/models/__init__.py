# SPDX-License-Identifier: Apache-2.0
"""The networks. A norm reaches them as a constructor, so that one line swaps it."""

import functools
from typing import Any

from flax import linen as nn

from experiments.config import ExperimentConfig, ModelConfig, NormConfig
from experiments.models.norms import make_norm
from experiments.models.patches import convolve_by_patches
from experiments.models.plain import Plain
from experiments.models.recurrent import RECURRENT
from experiments.models.resnet import RESNETS
from experiments.models.small import Conv, Dense
from experiments.models.step_gru import StepGRU
from experiments.train.parallel import Parallel

NETWORKS = {
    "dense": Dense,
    "conv": Conv,
    "plain": Plain,
    "step_gru": StepGRU,
    **RECURRENT,
    **RESNETS,
}
ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "sigmoid": nn.sigmoid}


def make_model(
    config: ExperimentConfig, num_classes: int, parallel: Parallel | None = None
) -> nn.Module:
    """Returns the network that the config names, for a batch cut like that."""
    size, statistics = config.norm.virtual_batch_size, config.parallel.statistics
    if parallel is not None and statistics != "global":
        group = 1 if statistics == "device" else statistics
        size = group * config.data.batch_size // parallel.num_devices
    axis_name = None if parallel is None else parallel.axis_name
    return _make(
        config.model, config.norm, config.train.dtype, num_classes, axis_name, size
    )


@functools.cache  # the same object again, so that nothing is compiled again
def _make(
    model: ModelConfig,
    norm: NormConfig,
    dtype: str,
    num_classes: int,
    axis_name: str | None,
    virtual_batch_size: int | None,
) -> nn.Module:
    constructor = make_norm(norm, axis_name, virtual_batch_size)
    fields = _fields(model, axis_name)
    return NETWORKS[model.name](
        norm=constructor, num_classes=num_classes, dtype=dtype, **fields
    )


def _fields(model: ModelConfig, axis_name: str | None) -> dict[str, Any]:
    """What the network has beside the norm."""
    activation: dict[str, Any] = {"activation": ACTIVATIONS[model.activation]}
    match model.name:
        case "dense" | "conv":
            fields = activation | {
                "norm_first": model.placement == "before",
                "dropout": model.dropout,
                "axis_name": axis_name,
            }
            if model.hidden is not None:
                fields["hidden"] = model.hidden
            if model.name == "conv" and model.convolution == "patches":
                fields["convolve"] = convolve_by_patches
            return fields
        case "plain":
            return activation | {"depth": model.depth}
        case "step_gru":
            return {"step_statistics": model.step_statistics}
        case _:
            return {}
