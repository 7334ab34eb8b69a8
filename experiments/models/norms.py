# SPDX-License-Identifier: Apache-2.0
"""The norms by name, as constructors, so that one line swaps them."""

import functools
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from experiments.config import NormConfig
from experiments.models.noise import Noise
from jaxbn.linen import BatchNorm, BatchRenorm

Norm = Callable[..., Callable]
"""Takes `use_running_average` and `mask`, and returns a module, or a function. Further
fields of the module, such as `scale_init`, are passed on."""


def make_norm(
    config: NormConfig, axis_name: str | None, virtual_batch_size: int | None
) -> Norm:
    """Returns the constructor of the norm that the config names."""
    affine = {
        "use_scale": config.affine in ("both", "scale"),
        "use_bias": config.affine in ("both", "bias"),
    }
    match config.kind:
        case "none":
            return no_norm
        case "layer":
            module = functools.partial(nn.LayerNorm, epsilon=config.epsilon, **affine)
            return functools.partial(of_each_example, module)
        case "group" | "instance":
            size = config.group_size if config.kind == "group" else 1
            fields: dict[str, Any] = {"num_groups": None, "group_size": size}
            module = functools.partial(
                nn.GroupNorm, epsilon=config.epsilon, **fields, **affine
            )
            return functools.partial(of_each_example, module)
    kind = BatchRenorm if config.kind == "renorm" else BatchNorm
    module = functools.partial(
        kind,
        momentum=config.momentum,
        epsilon=config.epsilon,
        debias=config.debias,
        axis_name=axis_name,
        virtual_batch_size=virtual_batch_size,
        unbiased=config.unbiased,
        **affine,
    )
    norm = functools.partial(of_the_batch, module)
    if config.affine == "fixed":
        norm = functools.partial(scaled, norm, config.fixed_scale)
    if config.ignore_mask:
        norm = functools.partial(ignoring_the_mask, norm)
    return functools.partial(noisy, norm, config.noise) if config.noise else norm


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


def ignoring_the_mask(norm: Norm, *, mask: Any, **fields) -> Callable:
    """The norm over all rows, padding too."""
    return norm(mask=None, **fields)


def scaled(norm: Norm, scale: float, **fields) -> Callable:
    """The norm, times a number."""
    plain = norm(**fields)
    return lambda x: scale * plain(x)


def noisy(norm: Norm, strength: float, **fields) -> Callable:
    """The norm, and in training noise behind it."""
    quiet = norm(**fields)
    if fields["use_running_average"]:
        return quiet
    return lambda x: Noise(strength)(quiet(x))
