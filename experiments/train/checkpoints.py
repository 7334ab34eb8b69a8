# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by Orbax: written while training goes on, whole or not at all.

A checkpoint is the state (parameters, statistics, optimizer, step, key) and that of the
data's iterator. All random numbers are functions of key and step.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from experiments.config import TrainConfig
from experiments.errors import UserError
from experiments.run.folder import CHECKPOINTS
from experiments.train.steps import TrainState

BEST = "test_accuracy"
BLOCKS = 2 * 4096  # what a small file takes on disk, and its share of the folders


class Checkpoints:
    """The checkpoints of one run: the newest few and the best."""

    def __init__(self, folder: Path, config: TrainConfig):
        """Opens the folder; what a killed run left unfinished goes."""
        # Orbax prints tracebacks from its threads; what they say is raised as well.
        absl_logging.set_verbosity(absl_logging.FATAL)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
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
        """The step of the newest."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: TrainState, data: dict[str, Any], accuracy: float
    ) -> None:
        """Begins to write; training goes on meanwhile."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)
        )
        if step == self.latest:
            return
        with self._write_errors():
            self._check_room(state)
            self._manager.save(step, args=items, metrics={BEST: accuracy}, force=True)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Returns the newest state, on the devices that `like` is on.

        Raises:
            UserError: it cannot be read, or is of another network.
        """
        step = self.latest
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        try:
            held = self._manager.restore(step, args=items)
        except Exception as error:  # what a broken file raises is not limited
            lines = str(error).strip().splitlines() or ["no message"]
            raise UserError(
                f"checkpoint `{self._folder / str(step)}` cannot be restored: "
                f"{type(error).__name__}: {lines[0]}; remove that folder to go on from "
                "the one before, or start anew with --overwrite."
            ) from error
        return held["state"], held["data"]

    def close(self) -> None:
        """Waits until all is written."""
        with self._write_errors():
            self._manager.wait_until_finished()
            self._manager.close()

    def _check_room(self, state: TrainState) -> None:
        """Orbax says in many ways that there is none; here, once, before it writes."""
        leaves = jax.tree.leaves(state)
        needed = sum(leaf.nbytes for leaf in leaves) + BLOCKS * len(leaves)
        if shutil.disk_usage(self._folder).free < needed:
            raise OSError(f"No space left on device for {needed / 1e6:.1f} MB")

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        """What a full disk makes Orbax raise, also later than at the save."""
        try:
            yield
        except Exception as error:  # it is not limited
            lines = str(error).strip().splitlines() or ["no message"]
            reason = lines[0] if len(lines[0]) < 100 else f"{lines[0][:100]} ..."
            raise UserError(
                f"a checkpoint in `{self._folder}` cannot be written: {reason}. Make "
                "room; the same command then goes on from the checkpoint before."
            ) from error
