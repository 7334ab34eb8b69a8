# SPDX-License-Identifier: Apache-2.0
"""Finds and loads config files, with a one-line error for all that can go wrong."""

import ast
import contextlib
import importlib
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from experiments.config import BenchConfig, ExperimentConfig, StudyConfig
from experiments.config.fields import closest
from experiments.errors import UserError, first_line

FOLDER = Path("configs")
"""The user's configs, in the current folder."""
SHIPPED = Path(__file__).parents[2] / "configs"
"""The configs that come with this program."""
Config = TypeVar("Config")


def available(folder: Path = FOLDER) -> list[tuple[Path, str]]:
    """Returns the config files below a folder, with their docstrings' first lines.

    A file without `get_config`, which others import, is none.
    """
    found = [(path, _first_line(path)) for path in sorted(folder.rglob("*.py"))]
    return [(path, line) for path, line in found if line is not None]


def known() -> dict[str, tuple[Path, str]]:
    """Returns all configs, with what users type: a path below ./configs, or a name."""
    own = {str(path): (path, line) for path, line in available()}
    stems = {path.stem for path, _ in own.values()}
    shipped = [(p, line) for p, line in available(SHIPPED) if p.stem not in stems]
    return own | {path.stem: (path, line) for path, line in shipped}


def find(name: str) -> Path:
    """Returns the config file of this path, or else of this name.

    A name is the end of a path, with or without `.py`, first among those in ./configs
    and then among those that are shipped: `digits_dense`, `studies/depth`.

    Raises:
        UserError: there is none, or more than one.
    """
    path = Path(name)
    if path.is_file():
        return path
    wanted = Path(name.removesuffix(".py")).parts
    for folder in (FOLDER, SHIPPED):
        found = [
            path
            for path, _ in available(folder)
            if path.with_suffix("").parts[-len(wanted) :] == wanted
        ]
        if len(found) > 1:
            both = ", ".join(map(str, found))
            raise UserError(f"config `{name}` may be any of {both}; give the path.")
        if found:
            return found[0]
    names = {path.stem for path, _ in known().values()}
    hint = closest(path.stem, names)
    hint = hint or f"there are: {', '.join(known()) or 'none'}"
    what = "is a folder" if path.is_dir() else "is not a file, nor the name of a config"
    raise UserError(f"config `{name}` {what}; {hint}.")


def _first_line(path: Path) -> str | None:
    """Returns the docstring's first line, or None if the file is no config."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return "(does not parse)"
    functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    if "get_config" not in functions:
        return None
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def load(path: Path, kind: type[Config]) -> Config:
    """Runs a config file and returns what its `get_config()` returns.

    Raises:
        UserError: something is wrong with the file, or the config is of another kind.
    """
    name = kind.__name__
    article = "an" if name[0] in "AEIOU" else "a"
    try:
        with _its_folder_first(path):
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
        other = Path(error.filename or path)
        which = "" if other == path else f": `{other}`, which it imports,"
        line = f"line {error.lineno}: " if error.lineno else ""
        raise UserError(
            f"config `{path}`{which} does not parse: {line}{error.msg}."
        ) from error
    except SystemExit as error:
        raise UserError(
            f"config `{path}` ends the program by sys.exit({error.code!r}); it must "
            f"return {article} `{name}` from `get_config()`."
        ) from error
    except Exception as error:
        reason = first_line(error)
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


@contextlib.contextmanager
def _its_folder_first(path: Path) -> Iterator[None]:
    """Lets a config import what is next to it, as a program can.

    What it imported from there is forgotten afterwards: the next config may have a
    module of the same name next to it.
    """
    folder = path.resolve().parent
    before, held = list(sys.path), set(sys.modules)
    packages = {name.partition(".")[0] for name in held}
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()  # of files that are new within a clock tick
    try:
        yield
    finally:
        sys.path[:] = before
        for name in set(sys.modules) - held:
            file = getattr(sys.modules[name], "__file__", None) or ""
            own = name.partition(".")[0] not in packages
            if own and Path(file).is_relative_to(folder):
                del sys.modules[name]
