# SPDX-License-Identifier: Apache-2.0
"""The norms by name, as constructors, so that one line swaps them."""

import functools
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from experiments.config import NormConfig
from jaxbn.linen import BatchNorm, BatchRenorm

Norm = Callable[..., Callable]
"""Takes `use_running_average` and `mask`, and returns a module, or a function. Further
fields of the module, such as `scale_init`, are passed on."""


def make_norm(
    config: NormConfig, axis_name: str | None, virtual_batch_size: int | None
) -> Norm:
    """Returns the constructor of the norm that the config names."""
    if config.kind == "none":
        return no_norm
    if config.kind == "layer":
        module = functools.partial(nn.LayerNorm, epsilon=config.epsilon)
        return functools.partial(of_each_example, module)
    if config.kind == "group":
        group: dict[str, Any] = {"num_groups": None, "group_size": config.group_size}
        module = functools.partial(nn.GroupNorm, epsilon=config.epsilon, **group)
        return functools.partial(of_each_example, module)
    module = functools.partial(
        BatchRenorm if config.kind == "renorm" else BatchNorm,
        momentum=config.momentum,
        epsilon=config.epsilon,
        debias=config.debias,
        axis_name=axis_name,
        virtual_batch_size=virtual_batch_size,
    )
    return functools.partial(of_the_batch, module)


def no_norm(**_: Any) -> Callable:
    """Leaves its input as it is."""
    return lambda x: x


def of_each_example(
    module: Callable[..., nn.Module], *, use_running_average: bool, mask: Any, **fields
) -> nn.Module:
    """A norm that does the same in training and inference, and needs no mask."""
    return module(**fields)


def of_the_batch(
    module: Callable[..., nn.Module], *, use_running_average: bool, mask: Any, **fields
) -> Callable:
    """A norm over the examples that count."""
    norm = module(use_running_average=use_running_average, **fields)
    return functools.partial(norm, mask=mask)
