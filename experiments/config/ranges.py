# SPDX-License-Identifier: Apache-2.0
"""The error of a field that is out of range."""


def require(holds: object, name: str, requirement: str, value: object) -> None:
    """Raises the ValueError of a field that is out of range."""
    if not holds:
        raise ValueError(f"`{name}` must be {requirement}, got {value!r}.")


def check_name_and_seed(name: str, seed: int) -> None:
    """The name is that of a folder; the seed what NumPy and JAX take."""
    plain = name and not set(name) & set("/\\\0") and name != ".."
    require(plain, "name", "a plain folder name", name)
    require(0 <= seed < 2**32, "seed", "in [0, 2**32)", seed)
