# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by Orbax: written while training continues, and atomically.

A checkpoint holds the state (parameters, statistics, optimizer, step, key), that of the
data iterator, and the open metrics. All random numbers are functions of key and step.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from experiments.config import TrainConfig
from experiments.errors import UserError, first_line
from experiments.run.folder import CHECKPOINTS
from experiments.train.steps import TrainState

BEST = "test_accuracy"
BLOCKS = 2 * 4096  # bytes on disk of a small file and its share of the folders


class Checkpoints:
    """The checkpoints of one run: the newest few and the best."""

    def __init__(self, folder: Path, config: TrainConfig):
        """Opens the folder; removes what a killed run left unfinished."""
        # Orbax raises its errors here, and logs their tracebacks from its threads too.
        logging.getLogger("absl").addFilter(_is_not_from_orbax)
        logging.getLogger("asyncio").addFilter(_is_not_an_error_of_a_task)
        policy = ocp.checkpoint_managers.preservation_policy
        keep = policy.AnyPreservationPolicy(
            [
                policy.LatestN(config.keep_checkpoints),
                policy.BestN(get_metric_fn=lambda m: m[BEST], n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep, cleanup_tmp_directories=True
        )
        self._folder = (folder / CHECKPOINTS).absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: TrainState, data: dict[str, Any], accuracy: float
    ) -> None:
        """Starts to write a checkpoint while training continues."""
        if step == self.latest:
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)
        )
        with self._write_errors():
            self._check_room(state)
            self._manager.save(step, args=items, metrics={BEST: accuracy}, force=True)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Returns the newest state, on the devices of `like`, and the data.

        Raises:
            UserError: the checkpoint cannot be read, or is of another network.
        """
        step = self.latest
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=items)
        except Exception as error:  # a broken file can raise anything
            raise UserError(
                f"checkpoint `{self._folder / str(step)}` cannot be restored: "
                f"{type(error).__name__}: {first_line(error)}; remove that folder to "
                "resume from the checkpoint before it, or start again with --overwrite."
            ) from error
        return restored["state"], restored["data"]

    def close(self) -> None:
        """Waits until everything is written."""
        with self._write_errors():
            self._manager.wait_until_finished()
            self._manager.close()

    def _check_room(self, state: TrainState) -> None:
        """Raises one clear error; Orbax has many for a full disk, some of them late."""
        leaves = jax.tree.leaves(state)
        needed = sum(leaf.nbytes for leaf in leaves) + BLOCKS * len(leaves)
        if shutil.disk_usage(self._folder).free < needed:
            raise OSError(f"No space left on device for {needed / 1e6:.1f} MB")

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Turns what Orbax raises, at the save or later, into one line."""
        try:
            yield
        except Exception as error:  # a full disk can raise anything
            reason = first_line(error)
            reason = reason if len(reason) < 100 else f"{reason[:100]} ..."
            raise UserError(
                f"a checkpoint in `{self._folder}` cannot be written: {reason}. Free "
                "some space; the same command then resumes from the last checkpoint."
            ) from error


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


def _is_not_an_error_of_a_task(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()
