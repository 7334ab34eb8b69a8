# SPDX-License-Identifier: Apache-2.0
"""A config that a run has left as JSON, as the dataclasses it was."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")


def from_fields(kind: type[Config], fields: Any, *, prefix: str = "") -> Config:
    """Returns the config with these fields; those that are missing have their defaults.

    A run of an older version lacks the fields that came later, whose defaults are what
    that version did.

    Args:
        kind: a dataclass, whose fields may be dataclasses.
        fields: what `dataclasses.asdict` returned, written as JSON and read back.
        prefix: the dotted name of the config itself, for errors.

    Raises:
        ValueError: a field is unknown, missing without a default, or out of range.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"`{prefix.rstrip('.')}` must have fields, got {fields!r}.")
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}  # pyright: ignore
    unknown = [name for name in fields if name not in known]
    if unknown:
        raise ValueError(
            f"there is no field `{prefix}{unknown[0]}` in this version; a newer one "
            "wrote it."
        )
    values = {}
    for name, value in fields.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_fields(hints[name], value, prefix=f"{prefix}{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    try:
        return kind(**values)
    except TypeError as error:  # a field without a default, or of another type
        raise ValueError(f"{error}.") from error
