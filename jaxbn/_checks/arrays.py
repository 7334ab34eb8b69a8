# SPDX-License-Identifier: Apache-2.0
"""Checks of the arrays of a call: `x`, its mask, feature vectors, residual, dtype."""

import math
import warnings
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from jaxbn._checks.kinds import is_complex, is_number


def check_array(x: object, *, name: str) -> None:
    """It must have a dtype and a shape."""
    if not hasattr(x, "dtype"):
        raise TypeError(
            f"`{name}` must be an array, got {type(x).__name__}; convert it with "
            "`jnp.asarray`."
        )


def check_inexact(x: Shaped[Array, "*n"], *, name: str = "x") -> None:
    """`x` must be an array of floating-point numbers, real or complex."""
    check_array(x, name=name)
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
    num_segments: int | None = None,
    **vectors: Shaped[Array, "..."] | None,
) -> None:
    """Each vector, by its name, must have one value per feature (of each segment)."""
    expected = tuple(x.shape[a] for a in axes)
    what = f"the size of the feature axes {axes} of `x`"
    if num_segments is not None:
        expected, what = (num_segments, *expected), f"`num_segments` and {what}"
    _check_vectors(x, expected, what, vectors)


def check_params(
    x: Shaped[Array, "*n"],
    axes: tuple[int, ...],
    **vectors: Shaped[Array, "..."] | None,
) -> None:
    """Each vector must have one value per feature, or one for each example too."""
    of_all = tuple(x.shape[a] for a in axes)
    what = f"the size of the feature axes {axes} of `x`"
    for name, vector in vectors.items():
        each = vector is not None and np.ndim(vector) == len(axes) + 1 and 0 not in axes
        expected = (x.shape[0], *of_all) if each else of_all
        whose = f"the batch and {what}" if each else what
        _check_vectors(x, expected, whose, {name: vector})


def _check_vectors(
    x: Shaped[Array, "*n"],
    expected: tuple[int, ...],
    what: str,
    vectors: Mapping[str, Shaped[Array, "..."] | None],
) -> None:
    """Each vector, by its name, must have numbers of a kind and a shape."""
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
                f"`{name}` must have shape {expected}, {what}, got {vector.shape} for "
                f"`x` of shape {x.shape}."
            )


def check_mask(mask: Shaped[Array, "..."], shape: tuple[int, ...]) -> None:
    """`mask` must fit the leading axes of `x`, or broadcast to it."""
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
        if size != shape[a]:
            raise ValueError(
                "`mask` must have the leading axes of `x`, or the rank of `x` and "
                f"sizes that broadcast to it, got shape {mask.shape} for `x` of shape "
                f"{shape}; axis {a} has {size} instead of {shape[a]} or 1."
            )


def check_reading(
    mask: Shaped[Array, "..."], shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[int, ...]:
    """Returns the shape by which a layer reads `mask`: its own, or one of more axes.

    A mask of lower rank has the leading axes of `x`. Flax would broadcast it as NumPy
    does: that is read too where it alone fits, and refused where both do. What masks
    whole features and nothing else is no reading: of these Flax makes NaN.
    """
    missing = len(shape) - mask.ndim
    leading, trailing = (*mask.shape, *[1] * missing), (*[1] * missing, *mask.shape)
    if missing <= 0 or not _fits(trailing, shape):
        return mask.shape
    if all(size == 1 for a, size in enumerate(trailing) if a not in axes):
        return mask.shape
    if _fits(leading, shape):
        raise ValueError(
            "`mask` must have the rank of `x` where it can be read in two ways, got "
            f"shape {mask.shape} for `x` of shape {shape}; write `mask.reshape"
            f"{leading}` for the leading axes of `x`, `mask.reshape{trailing}` for the "
            "last, as in Flax."
        )
    return trailing


def _fits(mask: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a mask of the rank of `x` broadcasts to its shape."""
    return all(size in (1, of_x) for size, of_x in zip(mask, shape, strict=True))


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


def check_elementwise(result: Shaped[Array, "..."], shape: tuple[int, ...]) -> None:
    """What an activation returns must have the shape of its argument."""
    if jnp.shape(result) != shape:
        raise ValueError(
            "`activation` must be element-wise, got a result of shape "
            f"{jnp.shape(result)} for an argument of shape {shape}."
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


def check_epsilon(epsilon: object) -> float | Float[Array, ""]:
    """Returns `epsilon`, a finite number that is not negative, or traced."""
    if isinstance(epsilon, Tracer) and epsilon.ndim == 0:
        return epsilon
    if isinstance(epsilon, Array | np.ndarray) and epsilon.ndim == 0:
        epsilon = epsilon.item()
    if not is_number(epsilon):
        raise TypeError(f"`epsilon` must be a number, got {epsilon!r}.")
    if not (0 <= epsilon < math.inf):
        raise ValueError(f"`epsilon` must be finite and at least 0, got {epsilon}.")
    return float(epsilon)


def has_one_value(shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    """Whether a batch has one value per feature."""
    return math.prod(size for a, size in enumerate(shape) if a not in axes) == 1


def check_enough_values(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """A batch that is normalized on its own must have no feature of one value."""
    if has_one_value(shape, axes):
        raise ValueError(
            f"`x` must have more than one value per feature in training, got shape "
            f"{shape} with `axis` {axes}: the variance of one value is 0, so "
            "that the output would be `bias` whatever `x` is. Use a larger (virtual) "
            "batch, or the running averages."
        )


def warn_of_one_value(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """For a layer, which may be called for the sake of shapes alone."""
    warnings.warn(
        f"`x` has one value per feature in training, shape {shape} with `axis` {axes}: "
        "its variance is 0 whatever it is, and the running statistics are not updated. "
        "Use a larger (virtual) batch, or `use_running_average=True`.",
        stacklevel=2,
    )
