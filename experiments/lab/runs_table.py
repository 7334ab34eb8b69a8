# SPDX-License-Identifier: Apache-2.0
"""The table of a study's runs, `runs.jsonl`: one JSON object per run."""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.config import StudyConfig, Variant
from experiments.errors import UserError
from experiments.run.folder import write_atomically
from experiments.run.metrics import to_json

RUNS, STUDY = "runs.jsonl", "study.json"
SEED = "seed"
Row = dict[str, Any]
"""Settings, the seed, and measures."""


class RunsTable:
    """The rows in a study's folder; new ones are on disk as soon as they are added."""

    def __init__(self, folder: Path, study: StudyConfig, *, overwrite: bool):
        """Opens the folder's table; the first rows start one, or replace it.

        Raises:
            UserError: the folder holds runs of other variants, or the table is damaged.
        """
        self._path, self._study = folder / RUNS, study
        self._all: list[Row] = []
        self._starts = overwrite or not self._path.exists()
        if not self._starts:
            _check_same(folder / STUDY, study)
            self._all = _read(self._path, study)

    @property
    def rows(self) -> list[Row]:
        """The rows of the study's seeds; the table may have more."""
        return [row for row in self._all if row[SEED] in self._study.seeds]

    def add(self, rows: Iterable[Row]) -> None:
        """Appends rows; if the process is killed, only the last line can be torn."""
        rows = list(rows)
        if {frozenset(row) for row in (*self._all[:1], *rows)} != {frozenset(rows[0])}:
            raise UserError(
                f"`{self._path}` has other measures than this study makes now; replace "
                "it with --overwrite."
            )
        if self._starts:  # only now: until there are rows, an older table stays
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            write_atomically(self._path.with_name(STUDY), _identity(self._study))
            self._starts = False
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(to_json(row) + "\n" for row in rows))
        self._all += rows


def missing(study: StudyConfig, variant: Variant, rows: list[Row]) -> list[int]:
    """Returns the seeds of a variant that have no row yet."""
    done = {row[SEED] for row in rows if is_of(variant, row)}
    return [seed for seed in study.seeds if seed not in done]


def is_of(variant: Variant, row: Row) -> bool:
    """Whether the row is a run of this variant."""
    return all(row[name] == value for name, value in variant.settings)


def fingerprint(study: StudyConfig) -> str:
    """Returns a hash of what is run and measured; not of seeds, claims and figure."""
    what = repr((study.probe, study.variants))
    return hashlib.sha256(what.encode()).hexdigest()


def _identity(study: StudyConfig) -> str:
    wanted = {"name": study.name, "variants": fingerprint(study)}
    return json.dumps(wanted) + "\n"


def _check_same(path: Path, study: StudyConfig) -> None:
    if not path.exists():
        runs = path.with_name(RUNS)
        raise UserError(
            f"`{runs}` has no `{STUDY}` next to it, which says of which study it is; "
            "replace it with --overwrite."
        )
    if path.read_text("utf-8") != _identity(study):
        raise UserError(
            f"`{path.parent}` holds runs of other variants than the config now has. "
            "Name another folder with --workdir, or replace them with --overwrite."
        )


def _read(path: Path, study: StudyConfig) -> list[Row]:
    """Returns the rows; cuts off a torn last line. A measure that is null is NaN."""
    text = path.read_text("utf-8")
    complete = text[: text.rfind("\n") + 1]
    if complete != text:
        write_atomically(path, complete)
    names = [name for name, _ in study.variants[0].settings]
    known = {variant.settings for variant in study.variants}
    rows: dict[Any, Row] = {}
    for number, line in enumerate(complete.splitlines(), 1):
        try:
            row = json.loads(line)
            settings = tuple((name, row.pop(name)) for name in names)
            if settings not in known:
                raise ValueError(f"no variant has {dict(settings)}")
            seed = int(row.pop(SEED))
            if (settings, seed) in rows:
                raise ValueError(f"seed {seed} of {dict(settings)} is there already")
            measures = {
                name: math.nan if value is None else float(value)
                for name, value in row.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"`{path}` is not a table of this study's runs: line {number}: {error}."
                " Remove that line, or replace the table with --overwrite."
            ) from error
        rows[settings, seed] = {**dict(settings), SEED: seed, **measures}
    return list(rows.values())
