# SPDX-License-Identifier: Apache-2.0
"""The types of a config's fields: checked when it is made, as nothing else does it."""

import contextlib
import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar, Union

from experiments.config.ranges import require, require_float32

NAMES: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "True or False"),
    str: ("text", "texts"),
    types.NoneType: ("None", "None"),
}
"""What types are called in a sentence, one value and several."""
Class = TypeVar("Class")


@typing.dataclass_transform(kw_only_default=True, frozen_default=True)
def config(prefix: str = "") -> Callable[[type[Class]], type[Class]]:
    """Makes a class a frozen dataclass that checks the types of its fields first.

    A value has the type of its annotation and is never converted; an integer is a
    number too, a bool is neither. NumPy's integers are refused: JSON has none.

    Args:
        prefix: comes before the fields' names in errors, such as `data.`.
    """

    def decorate(cls: Any) -> Any:
        check_ranges = getattr(cls, "__post_init__", lambda self: None)

        @functools.wraps(check_ranges)
        def check(self: Any) -> None:
            check_types(self, prefix)
            check_ranges(self)

        cls.__post_init__ = check
        return dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    return decorate


def check_types(made: Any, prefix: str) -> None:
    """Requires that each field has a value of its type.

    Raises:
        ValueError: one has not, or has a number that float32 does not hold.
    """
    for name, kind in _hints(type(made)).items():
        value = getattr(made, name)
        if not _fits(value, kind):
            fix = _fix(value, kind)
            require(False, f"{prefix}{name}", _in_words(kind), value, fix=fix)
        if isinstance(value, float):
            require_float32(f"{prefix}{name}", value)


def closest(name: str, known: Iterable[str]) -> str:
    """Returns "the closest name is `NAME`", or nothing if none is similar."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f"the closest name is `{found[0]}`" if found else ""


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]


def _options(kind: Any) -> tuple[Any, ...]:
    """Returns the types of a union, or the one type."""
    union = typing.get_origin(kind) in (Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


def _fits(value: Any, kind: Any) -> bool:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if parts[-1] is ...:
            parts = parts[:1] * len(value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if kind is Any:
        return True
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _in_words(kind: Any) -> str:
    """Completes "must be"."""
    words = []
    for option in _options(kind):
        if typing.get_origin(option) is Literal:
            words += [str(part) for part in typing.get_args(option)]
        elif typing.get_origin(option) is tuple:
            words.append(f"a tuple of {_plural(typing.get_args(option)[0])}")
        else:
            words.append(NAMES.get(option, (f"a {option.__name__}",))[0])
    words.sort(key=lambda word: word != "None")  # the usual first word of such a rule
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _plural(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return "pairs"
    return NAMES.get(kind, ("", f"{kind.__name__}s"))[1]


def _fix(value: Any, kind: Any) -> str:
    """What to write in place of the value, where that is known."""
    options = _options(kind)
    if type(value) is list:
        return f"write {tuple(value)!r}" if _fits(tuple(value), kind) else ""
    if type(value) is dict:
        made = [each.__name__ for each in options if dataclasses.is_dataclass(each)]  # pyright: ignore[reportAttributeAccessIssue]
        return f"write {made[0]}(...)" if made else ""
    if type(value) is str:
        known = [
            part
            for option in options
            if typing.get_origin(option) is Literal
            for part in typing.get_args(option)
        ]
        return closest(value, known)
    for plain in (int, float):
        if plain in options and type(value) is not bool:
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                number = plain(value)  # pyright: ignore[reportArgumentType]
                return f"write {number!r}" if number == value else ""
    return ""
