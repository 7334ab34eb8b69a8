# SPDX-License-Identifier: Apache-2.0
"""The static checks of the public functions and their messages; nothing checks twice.

Those of named axes are in `_sync_checks.py`, those of moments and running statistics in
`_stats_checks.py`.

A message names the argument in backticks, what it must be, what it is, the context and,
where one is known, the fix. `ValueError` is for values, `TypeError` for kinds. What is
traced is never checked: the docstrings say what happens instead.
"""

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import TypeGuard

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Shaped


def is_int(value: object) -> bool:
    """Whether it can index: a Python or NumPy integer."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a Python or NumPy number."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_complex(dtype: DTypeLike) -> bool:
    """Whether it has an imaginary part."""
    return jnp.issubdtype(dtype, jnp.complexfloating)


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


def check_axis(axis: int | Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the feature axes, non-negative and in increasing order."""
    axes = tuple(axis) if isinstance(axis, Iterable) else (axis,)
    if not all(map(is_int, axes)):
        raise TypeError(f"`axis` must be an int or a sequence of ints, got {axis!r}.")
    ndim = len(shape)
    for one in axes:
        if not -ndim <= one < ndim:
            raise ValueError(
                f"`axis` must be in [-{ndim}, {ndim}), got {one} for `x` of shape "
                f"{shape}."
            )
    canonical = sorted({operator.index(one) % ndim for one in axes})
    if not canonical or len(canonical) != len(axes):
        raise ValueError(
            f"`axis` must name each feature axis once and at least one, got {axis} for "
            f"`x` of shape {shape}."
        )
    return tuple(canonical)


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


def check_enough_values(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """A batch must have more than one value per feature, or none."""
    if math.prod(size for a, size in enumerate(shape) if a not in axes) == 1:
        raise ValueError(
            f"`x` must have more than one value per feature in training, got shape "
            f"{shape} with `axis` {axes}: the variance of one value is 0, so that the "
            "output would be `bias` whatever `x` is. Use a larger (virtual) batch, or "
            "the running averages."
        )


def check_affine(
    x: Shaped[Array, "*n"],
    epsilon: float,
    residual: Shaped[Array, "..."] | None,
    activation: Callable[[Array], Array] | None,
) -> float:
    """Checks the arguments of the affine map that are not feature vectors."""
    if residual is not None:
        check_residual(residual, x)
    check_activation(activation)
    return check_epsilon(epsilon)


def check_train_flag(use_running_average: bool | None) -> bool:
    """`use_running_average` must have been given somewhere."""
    if use_running_average is None:
        raise ValueError(
            "`use_running_average` must be given to the constructor or to the call, "
            "got None in both; `model.train()` and `model.eval()` set it too."
        )
    return use_running_average
