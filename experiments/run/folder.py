# SPDX-License-Identifier: Apache-2.0
"""A run's folder: `config.json`, `metrics.jsonl`, `checkpoints/`, `report.html`."""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.config import ExperimentConfig
from experiments.errors import UserError

CONFIG, METRICS, REPORT = "config.json", "metrics.jsonl", "report.html"
CHECKPOINTS = "checkpoints"


def open_run_folder(
    path: Path, config: ExperimentConfig, *, overwrite: bool = False
) -> bool:
    """Makes the folder of a run and writes its config, or opens it to resume the run.

    Returns:
        Whether the folder held a run of this config already.

    Raises:
        UserError: it holds one of another config, and `overwrite` is not set.
    """
    path.mkdir(parents=True, exist_ok=True)
    if overwrite:
        for name in (CONFIG, METRICS, REPORT):
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
    fields = dataclasses.asdict(config)
    del fields["processes"]  # where a run takes place does not change what it is
    text = json.dumps(fields, indent=2) + "\n"
    try:
        # Exclusively: of two runs that start at once, one gets the folder.
        with (path / CONFIG).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        _check_same(path, json.loads(text))
        return True
    return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks the folder; the lock ends with the process, however that ends.

    Raises:
        UserError: another process holds the lock.
    """
    path.mkdir(parents=True, exist_ok=True)
    folder = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise UserError(
            f"`{path}` is in use by another process; wait for it, or name another "
            "folder with --workdir."
        ) from None
    try:
        yield
    finally:
        os.close(folder)


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file; a reader sees the old text or the new one, never a part."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text, "utf-8")
    unfinished.replace(path)


def flattened(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the fields of a nested config by their dotted names."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _check_same(path: Path, config: dict[str, Any]) -> None:
    """Raises if the folder holds a run of another config."""
    try:
        held = flattened(json.loads((path / CONFIG).read_text("utf-8")))
    except json.JSONDecodeError:
        held = {}
    now = flattened(config)
    changes = [
        f"{name} is {held.get(name)!r} there, {now.get(name)!r} now"
        for name in {**now, **held}
        if held.get(name) != now.get(name)
    ]
    if changes:
        raise UserError(
            f"`{path}` holds a run of another config: {'; '.join(changes)}. Name "
            "another folder with --workdir, or replace that run with --overwrite."
        )
