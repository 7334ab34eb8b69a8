# SPDX-License-Identifier: Apache-2.0
"""A run's folder: what is in it, and who may write there.

It holds `config.json`; `metrics.jsonl`, a line for each record; `checkpoints/`, from
which the run is resumed; `report.html` and `best.safetensors` after the last step;
`predictions.html` and `diagnosis.html`, if they were asked for; and `replaced/`, an
older run, until the new one has its first checkpoint.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments.config import ExperimentConfig
from experiments.config.identity import changes, flattened
from experiments.errors import UserError

CONFIG, METRICS, REPORT = "config.json", "metrics.jsonl", "report.html"
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
WEIGHTS, PREDICTIONS = "best.safetensors", "predictions.html"
DIAGNOSIS = "diagnosis.html"
NAMES = (
    CONFIG, METRICS, REPORT, WEIGHTS, PREDICTIONS, DIAGNOSIS, TENSORBOARD, CHECKPOINTS,
)  # fmt: skip
"""All that a run leaves. The checkpoints, which decide whose it is, are moved last."""
REPLACED, MOVED = "replaced", "moved.json"


class RunFolder:
    """The folder of a run. Nothing in it changes before `claim`.

    A folder belongs to a run from the run's first checkpoint on: what a run without one
    left cannot be resumed, and any run may take its place. Files of another program may
    have the same names; a folder that holds such is refused.
    """

    def __init__(self, path: Path, config: ExperimentConfig, *, overwrite: bool):
        """Looks at the folder, which must be locked.

        Raises:
            UserError: it holds a run of another config, and `overwrite` is not set, or
                it holds files of another program.
        """
        self.path, self._config = path, config
        self.notes: list[str] = []
        """What the user should know, in sentences."""
        self.changes: list[str] = []
        """The fields that the run had otherwise so far, and may have now."""
        if (path / REPLACED).exists():
            self._finish_replacing()
        held = latest_step(path)
        self.resumes = held is not None and not overwrite
        """Whether the folder holds a checkpoint to resume from."""
        self._replaces = held is not None and overwrite
        self._check_ours()
        if self.resumes:
            self._check_config()

    def claim(self) -> None:
        """Writes the config; what another run left is moved aside or removed."""
        if self._replaces:
            self._move_aside()
        elif not self.resumes:
            if (self.path / METRICS).exists():
                self.notes.append(
                    f"The metrics in `{self.path}` are of a run that ended before its "
                    "first checkpoint; this run replaces them."
                )
            _remove(self.path, NAMES)
        fields = dataclasses.asdict(self._config)
        del fields["processes"]  # where a run takes place does not change what it is
        write_atomically(self.path / CONFIG, json.dumps(fields, indent=2) + "\n")

    def keep(self) -> None:
        """Drops what was moved aside, now that this run has its first checkpoint."""
        if self._replaces:
            self._replaces = False
            _drop(self.path / REPLACED)

    def close(self) -> None:
        """Puts back what was moved aside, if this run has no checkpoint yet."""
        if self._replaces and (self.path / REPLACED).exists():
            self._finish_replacing()

    def _check_ours(self) -> None:
        """Raises if a name that a run uses is that of another program's file."""
        there = [name for name in NAMES if (self.path / name).exists()]
        foreign = [
            f"{CHECKPOINTS}/{path.name}"
            for path in (self.path / CHECKPOINTS).glob("*")
            if not path.is_dir() or not path.name.partition(".")[0].isdigit()
        ]
        if latest_step(self.path) is None and not _holds_config(self.path):
            foreign += there
        if foreign:
            raise UserError(
                f"`{self.path}` holds `{foreign[0]}`, which no run has written; name "
                "another folder with --workdir, or move that away."
            )

    def _check_config(self) -> None:
        """Raises if the run is of another config; says what may change and does."""
        try:
            held = json.loads((self.path / CONFIG).read_text("utf-8"))
            fields = dict(flattened(held))
        except (FileNotFoundError, ValueError, AttributeError):
            return  # the checkpoint holds its config too, which is compared on restore
        found = changes(fields, self._config)
        if found.refused:
            raise other_config(f"`{self.path}` holds a run", found.refused)
        self.changes = found.allowed

    def _move_aside(self) -> None:
        """Moves the older run to `replaced/`; if killed, the next command undoes it."""
        aside = self.path / REPLACED
        aside.mkdir()
        moved = [name for name in NAMES if (self.path / name).exists()]
        write_atomically(aside / MOVED, json.dumps(moved))
        for name in moved:
            (self.path / name).rename(aside / name)

    def _finish_replacing(self) -> None:
        """Ends what a run that was stopped or killed while it replaced another left.

        Once the new run has a checkpoint the older one is dropped; else it is put back.
        """
        aside = self.path / REPLACED
        dropped = not (aside / MOVED).exists()  # or not begun
        done = (aside / CHECKPOINTS).exists() and latest_step(self.path) is not None
        if not dropped and not done:
            moved = json.loads((aside / MOVED).read_text("utf-8"))
            _remove(self.path, [name for name in NAMES if name not in moved])
            for name in moved:
                if (aside / name).exists():
                    _remove(self.path, [name])
                    (aside / name).rename(self.path / name)
            self.notes.append(
                f"`{self.path}` holds its earlier run again: the one that was to "
                "replace it ended before its first checkpoint."
            )
        _drop(aside)


@contextlib.contextmanager
def open_run_folder(
    path: Path, config: ExperimentConfig, *, overwrite: bool = False
) -> Iterator[RunFolder]:
    """Locks the folder of a run, makes it if need be, and yields it.

    Raises:
        UserError: another process uses it, or it holds a run of another config.
    """
    with locked(path):
        folder = RunFolder(path, config, overwrite=overwrite)
        try:
            yield folder
        finally:
            folder.close()


def latest_step(path: Path) -> int | None:
    """Returns the step of the newest checkpoint in a run's folder."""
    found = (path / CHECKPOINTS).glob("[0-9]*")
    return max((int(step.name) for step in found if step.name.isdigit()), default=None)


def begun_at(path: Path) -> int | None:
    """Returns when the run in a folder began or resumed; two runs differ in it."""
    try:
        return (path / CONFIG).stat().st_mtime_ns
    except OSError:
        return None


def resuming(*, overwrite: bool) -> str:
    """Returns the words for the command that resumes what this command began."""
    return "the same command" + (" without --overwrite" if overwrite else "")


def next_start(path: Path, *, overwrite: bool) -> str:
    """Returns what command does what next, once the run in the folder has ended."""
    step = latest_step(path)
    if step is None:
        return "the same command starts again"
    return f"{resuming(overwrite=overwrite)} resumes after step {step}"


def other_config(what: str, differences: list[str]) -> UserError:
    """Returns the error for a run of another config."""
    return UserError(
        f"{what} of another config: {'; '.join(differences)}. Name another folder with "
        "--workdir, or replace that run with --overwrite."
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks the folder; the lock ends with the process, however that ends.

    A folder that was made for it and has nothing in it at the end is removed.

    Raises:
        UserError: another process holds the lock, or the path leads to or over a file.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    make_folder(path)
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
        with contextlib.suppress(OSError):  # what is not empty stays
            for empty in new:
                empty.rmdir()
        os.close(folder)


def make_folder(path: Path) -> None:
    """Makes the folder that `--workdir` names, and those that it is in.

    Raises:
        UserError: the path leads to or over a file, or is not text.
    """
    if not str(path).isprintable():
        raise UserError(
            f"`--workdir` must be printable text, as checkpoints need it, "
            f"got {str(path)!r}; name another folder."
        )
    _make_folder(path, "`--workdir` must be a folder")


def make_place(file: Path) -> None:
    """Makes the folder of the file that `--output` names, before any work is done.

    Raises:
        UserError: it is a folder or a device, or its folder is a file or cannot be
            written.
    """
    if file.exists() and not file.is_file():  # a device would be replaced by a file
        kind = "folder; name a file in it" if file.is_dir() else "device; name a file"
        raise UserError(f"`--output` must be a file, got `{file}`, a {kind}.")
    _make_folder(file.parent, "`--output` must be in a folder")
    if not os.access(file.parent, os.W_OK):
        raise UserError(
            f"`{file.parent}` cannot be written; name another place with --output."
        )


def _make_folder(path: Path, rule: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(p for p in (path, *path.parents) if p.exists())
        raise UserError(
            f"{rule}, got `{path}`, but `{file}` is a file; name another folder."
        ) from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the file; a reader sees the old one or the new one, never a part.

    Where there is no room for it, nothing is left.
    """
    unfinished = path.with_name(f".{path.name}.part")  # no name that a user gives
    try:
        unfinished.write_bytes(
            content.encode() if isinstance(content, str) else content
        )
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder may be what is wrong
            unfinished.unlink(missing_ok=True)
        error.filename = str(path)  # which the user knows
        raise


def _holds_config(folder: Path) -> bool:
    """Returns whether the folder has the config of a run."""
    try:
        held = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and {"name", "data", "model", "norm"} <= set(held)


def _drop(aside: Path) -> None:
    """Removes what was moved aside; if that is cut short, nothing is put back."""
    (aside / MOVED).unlink(missing_ok=True)
    shutil.rmtree(aside)


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
