# SPDX-License-Identifier: Apache-2.0
"""Checks of moments, of running statistics and of how they are updated."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from jaxbn._checks.kinds import is_complex, is_int, is_number


def check_momentum(momentum: object) -> None:
    """`momentum` must be in [0, 1], None, or traced."""
    if momentum is None or isinstance(momentum, Array):
        return
    if not is_number(momentum):
        raise TypeError(f"`momentum` must be a number or None, got {momentum!r}.")
    if not 0 <= momentum <= 1:
        raise ValueError(
            f"`momentum` must be in [0, 1], got {momentum}; it weighs the old value, "
            "PyTorch's is 1 minus this."
        )


def check_num_features(num_features: int | Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of the statistics."""
    given = num_features
    sizes = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(map(is_int, sizes)):
        raise TypeError(
            f"`num_features` must be an int or a sequence of ints, got {given!r}."
        )
    if min(sizes, default=0) < 0:
        raise ValueError(f"`num_features` must be at least 0, got {given}.")
    return tuple(operator.index(size) for size in sizes)


def check_same_features(
    stats_shape: tuple[int, ...], moments_shape: tuple[int, ...]
) -> None:
    """`moments` must be of the features that `stats` are of."""
    if stats_shape != moments_shape:
        raise ValueError(
            f"`moments` must have the shape of `stats`, {stats_shape}, got "
            f"{moments_shape}; merge stacked moments with `merge_moments` first."
        )


def check_keeps_complex(stats_dtype: np.dtype, moments_dtype: np.dtype) -> None:
    """A complex mean must have a place to go, and stay what it is."""
    if is_complex(stats_dtype) != is_complex(moments_dtype):
        wanted = "complex64" if is_complex(moments_dtype) else "float32"
        raise TypeError(
            f"`stats.mean` must be complex where the input is, and only there, got "
            f"{stats_dtype} for moments of {moments_dtype}; initialize with such an "
            f"input, or convert it with `mean.astype(jnp.{wanted})`."
        )


def check_stacked_axis(axis: object, count_shape: tuple[int, ...]) -> int:
    """Returns the stacked axis of `moments`, non-negative."""
    if not is_int(axis):
        raise TypeError(f"`axis` must be an int, got {axis!r}.")
    ndim, axis = len(count_shape), operator.index(axis)
    if not -ndim <= axis < ndim:
        raise ValueError(
            f"`axis` must be one of the {ndim} stacked axes of `moments`, those of its "
            f"count of shape {count_shape}, got {axis}."
        )
    return axis % ndim


def check_no_schedule(**limits: object) -> None:
    """A limit of a call is a number: a call does not know how many came before."""
    for name, value in limits.items():
        if callable(value):
            raise TypeError(
                f"`{name}` must be a number here, got a function; give a schedule to "
                "the constructor of `BatchRenorm`, which counts its updates."
            )


def check_limits_fit(stats_shape: tuple[int, ...], **limits: Any) -> None:
    """A limit is one number, or one for each statistic."""
    for name, value in limits.items():
        shape = np.shape(value)
        if shape not in ((), stats_shape):
            raise ValueError(
                f"`{name}` must be one number, or have the shape of the statistics, "
                f"{stats_shape}, got shape {shape}."
            )


def check_renorm(max_scale: object, max_shift: object) -> None:
    """The limits of the corrections, where they are neither traced nor schedules."""
    limits = (("max_scale", max_scale, 1), ("max_shift", max_shift, 0))
    for name, value, least in limits:
        if isinstance(value, Array) or callable(value):
            continue
        if not is_number(value):
            raise TypeError(f"`{name}` must be a number, got {value!r}.")
        if not value >= least:
            raise ValueError(
                f"`{name}` must be at least {least}, got {value}; `max_scale=1` and "
                "`max_shift=0` correct nothing."
            )
