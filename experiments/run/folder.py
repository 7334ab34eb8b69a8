# SPDX-License-Identifier: Apache-2.0
"""A run's folder: `config.json`, `metrics.jsonl`, `checkpoints/`, `report.html`."""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.run.metrics import MetricsWriter, Record

CONFIG, METRICS, REPORT = "config.json", "metrics.jsonl", "report.html"
CHECKPOINTS = "checkpoints"


def open_run_folder(
    path: Path, config: ExperimentConfig, *, overwrite: bool = False
) -> bool:
    """Makes the folder of one run and writes its config; or goes on in it.

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
    del fields["processes"]  # where it runs is no part of what it is
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
    """Holds the folder; the lock goes with the process, however that ends.

    Raises:
        UserError: another process holds it.
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


def _check_same(path: Path, config: dict[str, Any]) -> None:
    """The folder must be of this config."""
    try:
        held = json.loads((path / CONFIG).read_text("utf-8"))
    except json.JSONDecodeError:
        held = {}
    changes = [
        f"{name} is {was!r} there, {now!r} now"
        for name, was, now in _differences(held, config)
    ]
    if changes:
        raise UserError(
            f"`{path}` holds a run of another config: {'; '.join(changes)}. Name "
            "another folder with --workdir, or replace that run with --overwrite."
        )


def _differences(
    held: Any, config: Any, prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yields the fields that differ, by dotted name, and both values."""
    if isinstance(config, dict) and isinstance(held, dict):
        for name in {**config, **held}:
            inner = held.get(name), config.get(name)
            yield from _differences(*inner, f"{prefix}.{name}" if prefix else name)
    elif held != config:
        yield prefix, held, config


def record(
    path: Path, records: Iterable[Record], show: Callable[[Record], object]
) -> list[Record]:
    """Writes each record to the run's metrics as it comes, shows it, returns all."""
    written = []
    with MetricsWriter(path / METRICS) as writer:
        for one in records:
            writer.write(one)
            show(one)
            written.append(one)
    return written
