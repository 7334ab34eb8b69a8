# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by Orbax: written while training continues, and atomically.

A checkpoint holds the state (parameters, statistics, optimizer, step, key), that of the
data iterator, and the open metrics; all random numbers are functions of key and step.
It also holds what it belongs to, and a checksum of each array, which are compared when
it is restored.
"""

import contextlib
import functools
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.config import ExperimentConfig
from experiments.config.identity import changes, fields_of
from experiments.errors import UserError, first_line
from experiments.run.folder import CHECKPOINTS, latest_step, next_start, other_config
from experiments.train.processes import is_loss, wait_together
from experiments.train.steps import TrainState

BEST = "test_accuracy"
BLOCKS = 2 * 4096  # bytes on disk of a small file and its share of the folders
IDENTITY, CHECKSUMS, EXAMPLES = "config", "checksums", "examples"


class Checkpoints:
    """The checkpoints of one run: the newest few and the best."""

    def __init__(
        self,
        folder: Path,
        config: ExperimentConfig,
        *,
        begins: bool = False,
        on_first: Callable[[], object] = lambda: None,
        read_only: bool = False,
    ):
        """Touches nothing yet.

        Args:
            folder: the run's.
            config: the run's.
            begins: whether the run starts at step 0, whatever is in the folder now.
            on_first: is called when the run has its first checkpoint.
            read_only: change nothing, since the run may be in training right now.
        """
        # Orbax raises its errors here, and logs their tracebacks from its threads too.
        logging.getLogger("absl").addFilter(_is_not_from_orbax)
        logging.getLogger("asyncio").addFilter(_is_not_an_error_of_a_task)
        self._run, self._config, self._read_only = folder, config, read_only
        self._folder = (folder / CHECKPOINTS).absolute()
        self._begins = begins
        self._latest = None if begins else latest_step(folder)
        self._on_first = on_first if self._latest is None else None

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Opens the folder; to write, removes what a killed run left unfinished."""
        if self._read_only:  # by this process alone, of all that may train together
            alone = jax.process_index()
            together = ocp.options.MultiprocessingOptions(
                primary_host=alone, active_processes={alone}
            )
            return ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    read_only=True, multiprocessing_options=together
                ),
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(
                        multiprocessing_options=together
                    ),
                    "data": ocp.JsonCheckpointHandler(multiprocessing_options=together),
                },
            )
        policy = ocp.checkpoint_managers.preservation_policy
        keep = policy.AnyPreservationPolicy(
            [
                policy.LatestN(self._config.train.keep_checkpoints),
                policy.BestN(get_metric_fn=_accuracy, n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            best_fn=_accuracy,  # writes the metrics, for a manager that comes later
            cleanup_tmp_directories=True,
        )
        return ocp.CheckpointManager(self._folder, options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._latest

    def next_start(self) -> str:
        """Returns what command does what next, once this run has ended."""
        # What is in the folder may be of the run before; or this run may have written
        # its first checkpoint without having returned from that.
        if self._latest is None and (self._begins or latest_step(self._run) is None):
            return "the same command starts again"
        return next_start(self._run, overwrite=self._begins)

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, in order."""
        if not self._folder.is_dir():
            return []
        names = (path.name for path in self._folder.iterdir())
        return sorted(int(name) for name in names if name.isdecimal())

    @property
    def best(self) -> int | None:
        """The step with the best test accuracy, the newest of equals."""
        ranks = {step: (self._data(step)["accuracy"], step) for step in self.steps}
        return max(ranks, key=ranks.__getitem__, default=None)

    def save(
        self,
        step: int,
        state: TrainState,
        data: dict[str, Any],
        accuracy: float,
        *,
        examples: str,
    ) -> None:
        """Starts to write a checkpoint while training continues.

        Args:
            step: the number of steps taken.
            state: the arrays, replicated.
            data: the rest, as JSON has it.
            accuracy: decides which checkpoint is the best.
            examples: the digest of the data set.
        """
        if step == self._latest:
            return
        data = {
            **data,
            "step": step,
            IDENTITY: fields_of(self._config),
            EXAMPLES: examples,
            CHECKSUMS: checksums(state),
        }
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(_signed(data))
        )
        self.wait()  # or Orbax would, for the checkpoint before
        with self._write_errors():
            self._check_room(state)
            self._manager.save(step, args=items, metrics={BEST: accuracy}, force=True)
        if self._on_first is not None:
            self.wait()
            with self._write_errors():
                self._on_first()
                self._on_first = None
        self._latest = step

    def wait(self) -> None:
        """Waits until what was saved is written; all processes call it."""
        with self._write_errors():
            wait_together(self._manager.wait_until_finished)

    def restore(
        self, like: TrainState, *, examples: str
    ) -> tuple[TrainState, dict[str, Any]]:
        """Returns the newest state, on the devices of `like`, and the data.

        Args:
            like: a state of the run's network.
            examples: the digest of the data set.

        Raises:
            UserError: the checkpoint cannot be read, is damaged, or is not of this run.
        """
        step = self._latest
        assert step is not None
        data = self._data(step)  # first: the arrays of another network do not fit
        self._check_belongs(step, data, examples)
        wanted = {name for name, _ in _named(like) if name.startswith("batch_stats/")}
        if not wanted <= {*data[CHECKSUMS]}:
            raise UserError(
                f"checkpoint `{self._folder / str(step)}` is of an older version, "
                "whose running statistics moved at each batch, not at each update of "
                "optimizer.accumulate_steps batches; start again with --overwrite."
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._state(step, abstract, data[CHECKSUMS]), data

    def read(self, step: int) -> tuple[TrainState, dict[str, Any]]:
        """Returns a state as it was saved, on one device here, and the data.

        Of a checkpoint of an older version, which does not say what it belongs to,
        nothing is compared.

        Raises:
            UserError: the checkpoint cannot be read, is damaged, or is not of this run.
        """
        data = self._data(step)
        if IDENTITY in data:
            self._check_belongs(step, data)
        try:
            held: Any = self._manager.item_metadata(step)
            here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            abstract = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here),
                held["state"].tree,
            )
        except Exception as error:  # a broken file can raise anything
            raise self._not_restored(step, _reason(error)) from error
        return self._state(step, abstract, data.get(CHECKSUMS, {})), data

    def _data(self, step: int) -> Any:
        """Returns what a checkpoint has but for the arrays."""
        try:
            only = ocp.args.Composite(data=ocp.args.JsonRestore())
            data = self._manager.restore(step, args=only)["data"]
        except Exception as error:  # a broken file can raise anything
            raise self._not_restored(step, _reason(error)) from error
        if not isinstance(data, dict) or "accuracy" not in data:
            raise self._not_restored(step, "its `data` is damaged")
        return data

    def _state(self, step: int, abstract: Any, sums: dict[str, str]) -> TrainState:
        """Returns the arrays, after comparing their checksums."""
        try:
            only = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            state = self._manager.restore(step, args=only)["state"]
            state = TrainState(**state) if isinstance(state, dict) else state
        except Exception as error:  # a broken file can raise anything
            raise self._not_restored(step, _reason(error)) from error
        found = checksums(state)
        damaged = [name for name, sum in sums.items() if found.get(name) != sum]
        if damaged:
            raise self._not_restored(step, f"`{damaged[0]}` is damaged")
        return state

    def _check_belongs(self, step: int, data: Any, examples: str | None = None) -> None:
        """Raises if the checkpoint is damaged, or of another step, run or data set.

        Without the digest of a data set, none is compared.
        """
        path = self._folder / str(step)
        if not isinstance(data, dict) or IDENTITY not in data:
            why = "it is of an older version, and does not say of which run"
            raise self._not_restored(step, why)
        if data != _signed(data):
            raise self._not_restored(step, "its `data` is damaged")
        if data["step"] != step:
            raise self._not_restored(step, f"it is that of step {data['step']}")
        if refused := changes(data[IDENTITY], self._config).refused:
            if self._read_only:
                why = f"it is of a run of another config: {'; '.join(refused)}"
                raise self._not_restored(step, why)
            raise other_config(f"checkpoint `{path}` is of a run", refused)
        if examples is not None and examples != data[EXAMPLES]:
            raise UserError(
                f"checkpoint `{path}` is of a run on other examples than `data.path` "
                "has now; give it the same examples, or start again with --overwrite."
            )

    def _not_restored(self, step: int, why: str) -> UserError:
        """Returns the error, which offers the checkpoint before if there is one."""
        before = max((s for s in self.steps if s < step), default=None)
        fix = "start again with --overwrite"
        if self._read_only:
            others = [str(other) for other in self.steps if other != step]
            fix = f"other checkpoints of the run: {', '.join(others) or 'none'}"
            before = None
        if before is not None:
            fix = f"remove that folder to resume after step {before}, or {fix}"
        return UserError(
            f"checkpoint `{self._folder / str(step)}` cannot be restored: {why}; {fix}."
        )

    def close(self) -> None:
        """Waits, whatever other processes do, until everything here is written."""
        if "_manager" in vars(self):
            with self._write_errors():
                self._manager.wait_until_finished()
                self._manager.close()

    def _check_room(self, state: TrainState) -> None:
        """Raises one clear error; Orbax has many for a full disk, some of them late."""
        leaves = jax.tree.leaves(state)
        needed = sum(leaf.nbytes for leaf in leaves) + BLOCKS * len(leaves)
        if shutil.disk_usage(self._run).free < needed:
            raise OSError(f"No space left on device for {needed / 1e6:.1f} MB")

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Turns what Orbax raises, at the save or later, into one line.

        Where another process is lost, nothing is wrong with the files.
        """
        try:
            yield
        except Exception as error:  # a full disk can raise anything
            if is_loss(error):
                raise
            reason = _reason(error)
            reason = reason if len(reason) < 100 else f"{reason[:100]} ..."
            full = "No space left" in str(error)
            raise UserError(
                f"a checkpoint in `{self._folder}` cannot be written: {reason}; "
                f"{'free some space; ' if full else ''}"
                f"{self.next_start()}."
            ) from error


def checksums(state: TrainState) -> dict[str, str]:
    """Returns a digest of each array by its path, such as `params/Dense_0/kernel`."""
    found = {}
    for name, leaf in _named(state):
        if isinstance(leaf, jax.Array):
            leaf = leaf.addressable_data(0)  # all devices hold the same
        data = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        found[name] = hashlib.blake2b(data.data, digest_size=8).hexdigest()
    return found


def _named(state: TrainState) -> list[tuple[str, Any]]:
    """Returns the arrays with their paths."""
    keystr = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return [(keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(state)]


def _signed(data: dict[str, Any]) -> dict[str, Any]:
    """Returns the data with a digest of all the rest of it."""
    rest = {name: value for name, value in data.items() if name != "digest"}
    text = json.dumps(rest, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return {**rest, "digest": digest}


def _reason(error: Exception) -> str:
    """Returns what another library's error says, on one line."""
    text = first_line(error)
    return text if isinstance(error, OSError) else f"{type(error).__name__}: {text}"


def _accuracy(metrics: dict[str, float]) -> float:
    return metrics[BEST]


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


def _is_not_an_error_of_a_task(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()
