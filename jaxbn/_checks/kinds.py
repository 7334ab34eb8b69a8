# SPDX-License-Identifier: Apache-2.0
"""What kind of thing an argument is."""

from collections.abc import Iterable
from numbers import Real
from typing import SupportsIndex, TypeGuard

import jax.numpy as jnp
from jax.typing import DTypeLike


def is_int(value: object) -> TypeGuard[SupportsIndex]:
    """Whether it is a Python or NumPy integer."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real Python or NumPy number."""
    return not isinstance(value, bool) and isinstance(value, Real)


def is_iterable(value: object) -> TypeGuard[Iterable[object]]:
    """Whether it can be iterated over, and so perhaps holds several values."""
    return isinstance(value, Iterable)


def is_complex(dtype: DTypeLike) -> bool:
    """Whether the dtype has an imaginary part."""
    return jnp.issubdtype(dtype, jnp.complexfloating)
