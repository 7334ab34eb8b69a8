# SPDX-License-Identifier: Apache-2.0
"""The checks of a config's fields, and the sentences of their errors."""


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


def require_at_least(config: object, prefix: str, **least: float) -> None:
    """Requires that each of these fields is None or at least this number."""
    for name, number in least.items():
        value = getattr(config, name)
        fits = value is None or value >= number
        require(fits, f"{prefix}{name}", f">= {number}", value)


def check_name_and_seed(name: str, seed: int) -> None:
    """Requires a name that a folder can have, and a seed that NumPy and JAX take."""
    plain = name and not set(name) & set("/\\\0") and name != ".."
    require(plain, "name", "a plain folder name", name)
    require(0 <= seed < 2**32, "seed", "in [0, 2**32)", seed)
