# SPDX-License-Identifier: Apache-2.0
"""The checks of a config's fields, and the sentences of their errors."""

import math


def require(
    holds: object, name: str, requirement: str, value: object, *, fix: str = ""
) -> None:
    """Raises ValueError("`name` must be REQUIREMENT, got VALUE; FIX.") unless it holds.

    Args:
        holds: whether the value fits.
        name: the dotted name of the field.
        requirement: completes "must be".
        value: the field's value.
        fix: a sentence about the context, or what to do.
    """
    if not holds:
        end = f"; {fix}." if fix else "."
        raise ValueError(f"`{name}` must be {requirement}, got {value!r}{end}")


LIMIT = 2**31
"""Whole numbers are below it, since JAX computes with 32 bits."""
LARGEST = 3.4e38
"""The largest number of float32, nearly."""


def require_at_least(config: object, prefix: str, **least: float) -> None:
    """Requires that each of these fields is None or at least this number."""
    for name, number in least.items():
        value = getattr(config, name)
        fits = value is None or value >= number
        require(fits, f"{prefix}{name}", f">= {number}", value)
        require_below_limit(f"{prefix}{name}", value)


def require_below_limit(name: str, value: int | tuple[int, ...] | None) -> None:
    """Requires that whole numbers fit into 32 bits."""
    values = value if isinstance(value, tuple) else (value or 0,)
    require(all(each < LIMIT for each in values), name, f"< {LIMIT}", value)


def require_float32(name: str, value: float) -> None:
    """Requires that a finite number is finite in float32 too."""
    fits = not LARGEST < abs(value) < math.inf
    require(fits, name, f"at most {LARGEST}, which float32 holds", value)


def check_name_and_seed(name: str, seed: int, *, field: str = "seed") -> None:
    """Requires a name that a folder can have, and a seed that NumPy and JAX take."""
    plain = name.isprintable() and not set(name) & set("/\\")
    plain = plain and name not in ("", ".", "..")
    require(plain, "name", "a plain folder name", name)
    require(0 <= seed < 2**32, field, "in [0, 2**32)", seed)
