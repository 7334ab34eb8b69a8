# SPDX-License-Identifier: Apache-2.0
"""Several processes as one: how they join, and what only the first of them does."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np

from experiments.config import ExperimentConfig
from experiments.errors import UserError, first_line
from experiments.train.parallel import make_devices

Result = TypeVar("Result")
LOST = 3
"""The exit status if another process is lost."""


def join(config: ExperimentConfig) -> None:
    """Makes this one of several processes, if the config says so.

    Raises:
        UserError: the devices, the mode or the address do not fit, or no cluster is
            detected.
    """
    if config.processes.detect:
        _detect()
        _refuse_pmap(config, jax.process_count())
        return
    processes, num_devices = config.processes, config.parallel.num_devices
    num = processes.num_processes or 1
    if num_devices is not None and num_devices % num:
        raise UserError(
            "`parallel.num_devices` must be a multiple of the number of processes, "
            f"{num}, got {num_devices}."
        )
    _refuse_pmap(config, num)
    make_devices(None if num_devices is None else num_devices // num)
    if processes.num_processes is not None:
        if processes.process_id == 0:
            _require_free(processes.coordinator_address or "")
        with _meeting():
            jax.distributed.initialize(
                processes.coordinator_address,
                processes.num_processes,
                processes.process_id,
            )


def _detect() -> None:
    """Joins the processes of a cluster; each keeps the devices that it has."""
    try:
        with _meeting():
            jax.distributed.initialize()
    except ValueError as error:
        raise UserError(
            "`processes.detect` is on, but this process was not started by Slurm, Open "
            "MPI, Cloud TPU or GKE; start it by one of these, or give "
            f"processes.coordinator_address. JAX says: {error}"
        ) from error


@contextlib.contextmanager
def _meeting() -> Iterator[None]:
    """Says what this process waits for, and lets Ctrl-C end the wait at once.

    JAX waits in C++, where Python's signal handlers do not run, and aborts when its
    time is up.
    """
    text = "Waiting for the other processes; JAX gives up after five minutes."
    timer = threading.Timer(2, print, (text,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


def _require_free(address: str) -> None:
    """Checks the port, since JAX may crash with a segmentation fault if it is taken."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    port = int(address.rpartition(":")[2])
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise UserError(
            f"`processes.coordinator_address` must have a free port, got {address} "
            f"({error.strerror})."
        ) from error


def _refuse_pmap(config: ExperimentConfig, num_processes: int) -> None:
    if num_processes > 1 and config.parallel.mode == "pmap":
        raise UserError(
            f"`parallel.mode` must be jit or shard_map for {num_processes} processes, "
            "got pmap."
        )


def is_first() -> bool:
    """Returns whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def first_does(action: Callable[[], Result]) -> Result | None:
    """Runs the action in the first process while the others wait; they get None.

    Raises:
        UserError: the action failed; only the first process gives the reason.
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
        raise error or UserError("process 0 failed, and gives the reason.")
    return result


def end_lost(error: Exception) -> None:
    """Ends this process after another is lost; a normal exit would wait for it."""
    print(
        f"error: process {jax.process_index()} lost another process "
        f"({first_line(error)}); the same command resumes from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(LOST)
