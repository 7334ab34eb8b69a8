# SPDX-License-Identifier: Apache-2.0
"""The norms that a config names, as constructors that the networks take."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from experiments.config import NormConfig
from experiments.errors import UserError
from jaxbn.linen import BatchNorm, BatchRenorm

Norm = Callable[..., Callable]
"""Takes `use_running_average` and `mask`, and returns a module or a function. It passes
further fields, such as `scale_init`, to the module."""


def make_norm(
    config: NormConfig, axis_name: str | None, virtual_batch_size: int | None
) -> Norm:
    """Returns the constructor of the norm that the config names."""
    affine = _affine(config)
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
            return functools.partial(of_groups, module, size)
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
    return _as_configured(config, functools.partial(of_the_batch, module))


def make_norm_of_flax(config: NormConfig, axis_name: str | None, dtype: str) -> Norm:
    """Returns the constructor of Flax's batch norm in the same place, to compare with.

    Args:
        config: of kind batch. Flax has no counterpart of `debias`, `unbiased` and
            groups of examples.
        axis_name: the mapped axis that shards the batch, if a step is mapped.
        dtype: of the computation, which jaxbn's takes from its input.
    """
    module = functools.partial(
        nn.BatchNorm,
        momentum=config.momentum,
        epsilon=config.epsilon,
        axis_name=axis_name,
        dtype=dtype,
        **_affine(config),
    )
    return _as_configured(config, functools.partial(of_the_batch_of_flax, module))


def _affine(config: NormConfig) -> dict[str, bool]:
    """Returns what is learned, as the modules take it."""
    return {
        "use_scale": config.affine in ("both", "scale"),
        "use_bias": config.affine in ("both", "bias"),
    }


def _as_configured(config: NormConfig, norm: Norm) -> Norm:
    """Returns the norm of the batch with what the config puts around it."""
    if config.affine == "fixed":
        norm = functools.partial(scaled, norm, config.fixed_scale)
    if config.ignore_mask:
        norm = functools.partial(ignoring_the_mask, norm)
    return functools.partial(noisy, norm, config.noise) if config.noise else norm


def no_norm(**_: Any) -> Callable:
    """Returns the identity."""
    return lambda x: x


def of_each_example(
    module: Callable[..., nn.Module], *, use_running_average: bool, mask: Any, **fields
) -> nn.Module:
    """Makes a norm that is the same in training and inference, and needs no mask."""
    return module(**fields)


def of_groups(module: Callable[..., nn.Module], size: int, **fields) -> Callable:
    """Makes a norm over groups of this many channels.

    Raises:
        UserError: when it is called with channels that it does not divide.
    """
    norm: Callable = of_each_example(module, **fields)

    def apply(x: Array) -> Array:
        channels = x.shape[-1]
        if channels % size:
            raise UserError(
                f"`norm.group_size` must be a divisor of the channels, {channels} in a "
                f"layer of this network, got {size}."
            )
        return norm(x)

    return apply


def of_the_batch(
    module: Callable[..., nn.Module], *, use_running_average: bool, mask: Any, **fields
) -> Callable:
    """Makes a norm over the examples that count."""
    norm = module(use_running_average=use_running_average, **fields)
    return functools.partial(norm, mask=mask)


def of_the_batch_of_flax(
    module: Callable[..., nn.Module], *, use_running_average: bool, mask: Any, **fields
) -> Callable:
    """Makes the same of Flax's norm, whose mask needs the rank of the input."""
    norm: Callable = module(use_running_average=use_running_average, **fields)

    def apply(x: Array) -> Array:
        rows = None if mask is None else mask.reshape(-1, *[1] * (x.ndim - 1))
        return norm(x, mask=rows)

    return apply


def ignoring_the_mask(norm: Norm, *, mask: Any, **fields) -> Callable:
    """Makes a norm over all rows, padding included."""
    return norm(mask=None, **fields)


def scaled(norm: Norm, scale: float, **fields) -> Callable:
    """Makes a norm whose output is multiplied by a number."""
    plain = norm(**fields)
    return lambda x: scale * plain(x)


def noisy(norm: Norm, strength: float, **fields) -> Callable:
    """Makes a norm that noise follows in training."""
    quiet = norm(**fields)
    if fields["use_running_average"]:
        return quiet
    return lambda x: Noise(strength)(quiet(x))


class Noise(nn.Module):
    """Adds noise whose mean and deviation each unit draws again at every step.

    With strength s the mean is uniform in [-s, s], the standard deviation in [0, s].
    Santurkar et al. 2018 (https://arxiv.org/abs/1805.11604, section 2.2) put it after
    batch norm, so that the distributions of its outputs shift all the time.
    """

    strength: float

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Draws from the stream `dropout`."""
        of_mean, of_spread, of_values = jax.random.split(self.make_rng("dropout"), 3)
        features = x.shape[-1:]
        mean = jax.random.uniform(of_mean, features, minval=-1.0)
        spread = jax.random.uniform(of_spread, features)
        drawn = mean + spread * jax.random.normal(of_values, x.shape)
        return x + jnp.asarray(self.strength * drawn, x.dtype)
