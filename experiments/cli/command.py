# SPDX-License-Identifier: Apache-2.0
"""What all commands share: how their arguments are read."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro
from rich.console import Console

import experiments
from experiments.cli.mistakes import in_one_line
from experiments.config.loading import find
from experiments.errors import UserError

CONSOLE = "jaxbn-experiments"
PROGRAM = CONSOLE if Path(sys.argv[0]).stem == CONSOLE else "python -m experiments"
"""The name by which this program was started."""
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
            UserError: an argument is wrong, or fields contradict each other.
        """
        program = f"{PROGRAM} {name}"
        try:
            return in_one_line(
                lambda: tyro.cli(cls, prog=program, args=arguments, **default),
                usage=cls.usage,
                program=program,
            )
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
        config, *rest = arguments
        chosen = cls.of(find(config))
        parse = super(ConfigCommand, type(chosen)).parse
        return parse(f"{name} {config}", rest, default=chosen)


def child(module: str) -> tuple[list[str], dict[str, str]]:
    """Returns the command that runs a module of this package, and its environment.

    The current folder may hold an `experiments` of the user: `-P` keeps it from coming
    before this one.
    """
    root = str(Path(experiments.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return [sys.executable, "-P", "-m", module], environment
