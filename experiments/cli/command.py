# SPDX-License-Identifier: Apache-2.0
"""What all commands share: how their arguments are read."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro
from rich.console import Console

from experiments.errors import UserError

PROGRAM = "python -m experiments"
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""An option without a value: `--overwrite`, and no `--no-overwrite`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command: its fields are its arguments, its docstring is its help."""

    usage: ClassVar[str]

    @classmethod
    def parse(cls, name: str, arguments: Sequence[str], **default: Any) -> "Command":
        """Returns the command with these arguments.

        Raises:
            UserError: fields contradict each other.
        """
        try:
            return tyro.cli(cls, prog=f"{PROGRAM} {name}", args=arguments, **default)
        except ValueError as error:
            raise UserError(str(error)) from error

    def run(self, console: Console, command: str) -> int | None:
        """Does it, and returns the exit status; `command` is the whole command line."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigCommand(Command):
    """A command that takes a config file first, whose values are its defaults."""

    @classmethod
    def of(cls, path: Path) -> "ConfigCommand":
        """Returns the command with the defaults that the config file has."""
        raise NotImplementedError

    @classmethod
    def parse(cls, name: str, arguments: Sequence[str], **default: Any) -> "Command":
        """Loads the config, then changes the fields that other arguments name."""
        if not arguments or arguments[0].startswith("-"):
            raise UserError(f"`{name}` takes a config file first; see --help.")
        path, *rest = arguments
        chosen = cls.of(Path(path))
        parse = super(ConfigCommand, type(chosen)).parse
        return parse(f"{name} {path}", rest, default=chosen)


@contextlib.contextmanager
def on_interrupt(console: Console, text: str) -> Iterator[None]:
    """Prints a text on Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(text, soft_wrap=True)
        raise
