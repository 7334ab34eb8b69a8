# SPDX-License-Identifier: Apache-2.0
"""Checks of the arrays of a call: `x`, its mask, feature vectors, residual, dtype."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Shaped

from jaxbn._checks.kinds import is_complex, is_number


def check_inexact(x: Shaped[Array, "*n"], *, name: str = "x") -> None:
    """`x` must be an array of floating-point numbers, real or complex."""
    if not hasattr(x, "dtype"):
        raise TypeError(
            f"`{name}` must be an array, got {type(x).__name__}; convert it with "
            "`jnp.asarray`."
        )
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(
            f"`{name}` must hold floating-point numbers, got dtype {x.dtype}; convert "
            f"it with `{name}.astype(jnp.float32)`."
        )


def check_real(x: Shaped[Array, "*n"], *, name: str, reason: str) -> None:
    """`x` must not be complex."""
    if is_complex(x.dtype):
        raise TypeError(
            f"`{name}` must hold real floating-point numbers, got dtype {x.dtype}: "
            f"{reason}."
        )


def check_features(
    x: Shaped[Array, "*n"],
    axes: tuple[int, ...],
    **vectors: Shaped[Array, "..."] | None,
) -> None:
    """Each vector, given by its name, must have one value per feature."""
    expected = tuple(x.shape[a] for a in axes)
    for name, vector in vectors.items():
        if vector is None:
            continue
        check_inexact(vector, name=name)
        if name == "var":
            check_real(vector, name=name, reason="it is a mean square")
        elif not is_complex(x.dtype):
            check_real(vector, name=name, reason=f"`x` is {x.dtype}")
        if vector.shape != expected:
            raise ValueError(
                f"`{name}` must have shape {expected}, the size of the feature axes "
                f"{axes} of `x`, got {vector.shape} for `x` of shape {x.shape}."
            )


def check_mask(
    mask: Shaped[Array, "..."], shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    """`mask` must say, without regard to the feature, which positions count."""
    if is_complex(mask.dtype):
        raise TypeError(
            f"`mask` must be bool, int or float, got dtype {mask.dtype}; 0 leaves a "
            "position out, a float weighs it."
        )
    if mask.ndim > len(shape):
        raise ValueError(
            f"`mask` must have at most the rank of `x`, got shape {mask.shape} for `x` "
            f"of shape {shape}."
        )
    for a, size in enumerate(mask.shape):
        if size == 1:
            continue
        if a in axes:
            raise ValueError(
                f"`mask` must have size 1 along the feature axis {a} of `x`: it may "
                f"not vary between features, got shape {mask.shape} for `x` of shape "
                f"{shape}."
            )
        if size != shape[a]:
            raise ValueError(
                "`mask` must have the leading axes of `x`, or the rank of `x` and "
                f"sizes that broadcast to it, got shape {mask.shape} for `x` of shape "
                f"{shape}; axis {a} has {size} instead of {shape[a]} or 1."
            )


def check_residual(residual: Shaped[Array, "..."], x: Shaped[Array, "*n"]) -> None:
    """`residual` must look like `x`."""
    check_inexact(residual, name="residual")
    if not is_complex(x.dtype):
        check_real(residual, name="residual", reason=f"`x` is {x.dtype}")
    if residual.shape != x.shape:
        raise ValueError(
            f"`residual` must have the shape of `x`, {x.shape}, got {residual.shape}."
        )


def check_activation(activation: Callable[[Array], Array] | None) -> None:
    """`activation` must be callable."""
    if activation is not None and not callable(activation):
        raise TypeError(
            "`activation` must be a function such as `jax.nn.relu`, got "
            f"{activation!r}."
        )


def check_dtype(dtype: DTypeLike, of: DTypeLike = jnp.float32) -> np.dtype:
    """Returns `dtype`, which must be complex where `of` is, and real where it is."""
    result = jnp.dtype(dtype)
    kind, word = (
        (jnp.complexfloating, "complex") if is_complex(of) else (jnp.floating, "real")
    )
    if not jnp.issubdtype(result, kind):
        raise TypeError(
            f"`dtype` must be a {word} floating-point dtype, got {result}; leave it "
            "out for the usual one."
        )
    return result


def check_epsilon(epsilon: float) -> float:
    """Returns `epsilon`, a finite number that is not negative."""
    if not is_number(epsilon):
        raise TypeError(f"`epsilon` must be a Python number, got {epsilon!r}.")
    if not (0 <= epsilon < math.inf):
        raise ValueError(f"`epsilon` must be finite and at least 0, got {epsilon}.")
    return float(epsilon)


def check_enough_values(
    shape: tuple[int, ...], axes: tuple[int, ...], virtual_batch_size: int | None
) -> None:
    """A batch that is normalized on its own must have no feature of one value."""
    sizes = list(shape)
    if virtual_batch_size is not None:
        sizes[0] = min(virtual_batch_size, sizes[0])
    if math.prod(size for a, size in enumerate(sizes) if a not in axes) == 1:
        raise ValueError(
            f"`x` must have more than one value per feature in training, got shape "
            f"{tuple(sizes)} with `axis` {axes}: the variance of one value is 0, so "
            "that the output would be `bias` whatever `x` is. Use a larger (virtual) "
            "batch, or the running averages."
        )
