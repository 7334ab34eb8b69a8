# SPDX-License-Identifier: Apache-2.0
"""The tidy table of a study, `runs.csv`: one row a run, written as it goes."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.config import StudyConfig, Variant
from experiments.errors import UserError

RUNS, STUDY = "runs.csv", "study.json"
SEED = "seed"
Row = dict[str, Any]
"""Settings, the seed, and measures."""


class RunsTable:
    """The rows of a study's folder, those that were there and those to come."""

    def __init__(self, folder: Path, study: StudyConfig, *, overwrite: bool):
        """Opens the folder's table, or begins it.

        Raises:
            UserError: the folder holds runs of other variants.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / RUNS
        if overwrite:
            self._path.unlink(missing_ok=True)
            (folder / STUDY).unlink(missing_ok=True)
        _check_same(folder / STUDY, self._path, study)
        self._study = study
        self._all = _read(self._path, study)

    @property
    def rows(self) -> list[Row]:
        """Those of the study's seeds; the table may have more."""
        return [row for row in self._all if row[SEED] in self._study.seeds]

    def add(self, rows: Iterable[Row]) -> None:
        """Writes some rows, each whole or, if the process is killed, not at all."""
        rows = list(rows)
        names = list((self._all or rows)[0])
        if set(names) != set(rows[0]):
            raise UserError(
                f"`{self._path}` has other measures than are made now; replace it with "
                "--overwrite."
            )
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        if not self._all:
            writer.writeheader()
        writer.writerows(rows)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text.getvalue())
        self._all += rows


def missing(study: StudyConfig, variant: Variant, rows: list[Row]) -> list[int]:
    """The seeds of a variant that have no row yet."""
    settings = dict(variant.settings)
    done = {
        row[SEED]
        for row in rows
        if all(row[name] == value for name, value in settings.items())
    }
    return [seed for seed in study.seeds if seed not in done]


def fingerprint(study: StudyConfig) -> str:
    """Of what is run and measured; not of seeds, claims and figure."""
    what = repr((study.probe, study.variants))
    return hashlib.sha256(what.encode()).hexdigest()


def _check_same(path: Path, runs: Path, study: StudyConfig) -> None:
    said = {"name": study.name, "variants": fingerprint(study)}
    if not path.exists():
        if runs.exists():
            raise UserError(f"`{runs}` is there without its `{STUDY}`; move it away.")
        path.write_text(json.dumps(said) + "\n", "utf-8")
        return
    try:
        held = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError:
        held = None
    if held != said:
        raise UserError(
            f"`{path.parent}` holds runs of other variants than the config now has. "
            "Name another folder with --workdir, or replace them with --overwrite."
        )


def _read(path: Path, study: StudyConfig) -> list[Row]:
    """The whole rows; a torn last line is cut off."""
    if not path.exists():
        return []
    text = path.read_text("utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, "utf-8")
    by_text: dict[str, dict[str, Any]] = {}
    for variant in study.variants:
        for name, value in variant.settings:
            by_text.setdefault(name, {})[str(value)] = value
    try:
        return [
            {
                name: by_text[name][text] if name in by_text else _number(name, text)
                for name, text in row.items()
            }
            for row in csv.DictReader(io.StringIO(whole))
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"`{path}` is not a table of this study's runs ({error}); replace it with "
            "--overwrite."
        ) from error


def _number(name: str, text: str) -> float | int:
    return int(text) if name == SEED else float(text)
