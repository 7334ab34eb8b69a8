# SPDX-License-Identifier: Apache-2.0
"""A run's folder: `config.json`, `metrics.jsonl`, `report.html`."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.metrics import MetricsWriter, Record

CONFIG, METRICS, REPORT = "config.json", "metrics.jsonl", "report.html"


def create_run_folder(
    path: Path, config: ExperimentConfig, *, overwrite: bool = False
) -> None:
    """Makes the folder of one run and writes its config.

    Raises:
        UserError: the folder holds a run already, and `overwrite` is not set.
    """
    path.mkdir(parents=True, exist_ok=True)
    if overwrite:
        for name in (CONFIG, METRICS, REPORT):
            (path / name).unlink(missing_ok=True)
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    try:
        # Exclusively: of two runs that start at once, one gets the folder.
        with (path / CONFIG).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(
            f"`{path}` holds a run already; name another folder with --workdir, or "
            "replace that run with --overwrite."
        ) from None


def record(
    path: Path, records: Iterator[Record], show: Callable[[Record], None]
) -> list[Record]:
    """Writes each record to the run's metrics as it comes, shows it, returns all."""
    written = []
    with MetricsWriter(path / METRICS) as writer:
        for one in records:
            writer.write(one)
            show(one)
            written.append(one)
    return written
