# SPDX-License-Identifier: Apache-2.0
"""Loads config files, with a one-line error for everything that can go wrong."""

import ast
import runpy
from pathlib import Path
from typing import TypeVar

from experiments.config import BenchConfig, ExperimentConfig, StudyConfig
from experiments.errors import UserError

FOLDER = Path("configs")
Config = TypeVar("Config")


def available(folder: Path = FOLDER) -> list[tuple[Path, str]]:
    """Returns the config files below a folder, with their docstrings' first lines."""
    paths = sorted(p for p in folder.rglob("*.py") if p.name != "__init__.py")
    return [(p, _first_line(p)) for p in paths]


def _first_line(path: Path) -> str:
    try:
        text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    except (SyntaxError, ValueError, OSError):
        return "(does not parse)"
    return (text or "").partition("\n")[0]


def load(path: Path, kind: type[Config]) -> Config:
    """Runs a config file and returns what its `get_config()` returns.

    Raises:
        UserError: something is wrong with the file, or the config is of another kind.
    """
    name = kind.__name__
    article = "an" if name[0] in "AEIOU" else "a"
    if not path.is_file():
        others = ", ".join(str(p) for p, _ in available()) or "none"
        raise UserError(f"config `{path}` is not a file; there are: {others}.")
    try:
        names = runpy.run_path(str(path))
        if not callable(names.get("get_config")):
            raise UserError(
                f"config `{path}` has no function `get_config()`; it must return "
                f"{article} `{name}`."
            )
        config = names["get_config"]()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(
            f"config `{path}` does not parse: line {error.lineno}: {error.msg}."
        ) from error
    except Exception as error:
        reason = str(error).rstrip(".") or "no message"
        raise UserError(
            f"config `{path}` fails: {type(error).__name__}: {reason}."
        ) from error
    if not isinstance(config, kind):
        takes: dict[type, str] = {
            ExperimentConfig: "train",
            BenchConfig: "bench",
            StudyConfig: "study",
        }
        command = takes.get(type(config))
        hint = f"; `{command}` takes it" if command else ""
        raise UserError(
            f"config `{path}`: `get_config()` must return {article} `{name}`, "
            f"got {type(config).__name__}{hint}."
        )
    return config
