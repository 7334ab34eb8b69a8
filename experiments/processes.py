# SPDX-License-Identifier: Apache-2.0
"""Several processes as one: joining, and doing once what must not be done by each."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.parallel import make_devices

Result = TypeVar("Result")
LOST = 3
"""The exit status where another process is gone."""


def join(config: ExperimentConfig) -> None:
    """Makes this one of several processes, where the config says so."""
    processes, num_devices = config.processes, config.parallel.num_devices
    num = processes.num_processes or 1
    if num_devices is not None and num_devices % num:
        raise UserError(
            f"parallel.num_devices must be divided by the {num} processes, got "
            f"{num_devices}."
        )
    if num > 1 and config.parallel.mode == "pmap":
        raise UserError(
            f"parallel.mode must be jit or shard_map for {num} processes, got pmap."
        )
    make_devices(None if num_devices is None else num_devices // num)
    if processes.detect:
        jax.distributed.initialize()
    elif processes.num_processes is not None:
        jax.distributed.initialize(
            processes.coordinator_address,
            processes.num_processes,
            processes.process_id,
        )


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return jax.process_index() == 0


def first_does(action: Callable[[], Result]) -> Result | None:
    """Lets the first process do it, while the others wait; None in those.

    Raises:
        UserError: it failed, in the first with the reason, in all others quietly.
    """
    if jax.process_count() == 1:
        return action()
    from jax.experimental.multihost_utils import broadcast_one_to_all

    result, error = None, None
    if is_first():
        try:
            result = action()
        except (UserError, OSError) as raised:
            error = raised
    if broadcast_one_to_all(np.int32(error is not None)):
        raise error or UserError("process 0 said why.")
    return result


def end_lost(error: Exception) -> None:
    """Ends this process where another is gone, which no exception would do.

    The orderly end waits for the others.
    """
    line = (str(error).strip().splitlines() or ["no message"])[0]
    print(
        f"error: process {jax.process_index()} lost another one ({line}); the same "
        "command goes on from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(LOST)
