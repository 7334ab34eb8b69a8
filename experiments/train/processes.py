# SPDX-License-Identifier: Apache-2.0
"""Several processes as one: how they join, and what only the first of them does."""

import concurrent.futures
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import jax
import numpy as np

from experiments.config import ExperimentConfig
from experiments.errors import SharedError, UserError, first_line, of_system
from experiments.train.parallel import make_devices

Result = TypeVar("Result")
LOST = 3
"""The exit status if another process is lost."""
SILENT = 1.0  # seconds
SIGNS = ("Gloo", "NCCL", "coordination service", "CoordinationService")
"""What the errors of communication between processes name."""


def join(config: ExperimentConfig) -> None:
    """Makes this one of several processes, if the config says so.

    Raises:
        UserError: the mode or the address does not fit, or no cluster is detected.
    """
    if config.processes.detect:
        _detect()
        num = jax.process_count()
        if num > 1 and config.parallel.mode == "pmap":
            raise SharedError(
                f"`parallel.mode` must be jit or shard_map for {num} processes, got "
                "pmap."
            )
        return
    processes, num_devices = config.processes, config.parallel.num_devices
    num = processes.num_processes or 1
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
    """Says what this process waits for, since JAX aborts when its time is up."""
    text = "Waiting for the other processes; JAX gives up after five minutes."
    timer = threading.Timer(2, print, (text,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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


def is_first() -> bool:
    """Returns whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def first_does(action: Callable[[], Result]) -> Result | None:
    """Runs the action in the first process while the others wait; they get None.

    Raises:
        UserError: the action failed.
    """
    with together():
        return action() if is_first() else None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Fails in all processes if the block fails in any of them.

    In the block no process may wait for another.

    Raises:
        SharedError: the block raised a UserError or an OSError.
    """
    if jax.process_count() == 1:
        yield
        return
    error = None
    try:
        yield
    except UserError as raised:
        error = str(raised)
    except OSError as raised:
        error = str(of_system(raised))
    errors = _gather(error)
    failed = [number for number, text in enumerate(errors) if text is not None]
    if failed:
        first = failed[0]
        where = f"in process {first}, " if first else ""
        raise SharedError(where + errors[first])


def wait_together(wait: Callable[[], None]) -> None:
    """Waits until the function has returned in all processes.

    Raises at once if one of them is lost: that shows in collectives. A function that
    itself waits for the others, as Orbax does at a barrier of JAX's coordination
    service, would not see it, and after 100 seconds JAX would abort this process.
    """
    if jax.process_count() == 1:
        wait()
        return
    from jax.experimental.multihost_utils import process_allgather

    ended: Future[None] = Future()

    def run() -> None:
        try:
            ended.set_result(wait())
        except Exception as error:
            ended.set_exception(error)

    # A daemon, since it may never return once a process is lost.
    threading.Thread(target=run, daemon=True).start()
    while not process_allgather(np.bool_(ended.done())).all():
        concurrent.futures.wait([ended], timeout=0.1)
    ended.result()


def require_same(facts: Callable[[], dict[str, Any]]) -> None:
    """Checks that all processes hold the same facts.

    Args:
        facts: returns them by name, as JSON has them; not called in a single process.

    Raises:
        SharedError: they do not; it names what differs.
    """
    if jax.process_count() == 1:
        return
    first, *others = _gather(facts())
    for number, other in enumerate(others, 1):
        differences = [
            f"{name} is {first.get(name)!r} in process 0, {other.get(name)!r} in "
            f"process {number}"
            for name in {**first, **other}
            if first.get(name) != other.get(name)
        ]
        if differences:
            more = len(differences) - 3
            shown = "; ".join(differences[:3]) + (
                f"; and {more} more" if more > 0 else ""
            )
            raise SharedError(
                f"all processes must have the same config, code and data, but {shown}; "
                "start them by the same command, with the same versions and files."
            )


def _gather(value: Any) -> list[Any]:
    """Returns the value of each process; JSON must have it."""
    from jax.experimental.multihost_utils import process_allgather

    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    longest = int(process_allgather(np.int32(len(text))).max())
    padded = np.pad(text, (0, longest - len(text)), constant_values=ord(" "))
    return [json.loads(row.tobytes()) for row in process_allgather(padded)]


def is_loss(error: Exception) -> bool:
    """Returns whether the error of another library tells that a process was lost."""
    if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
        return False
    # JAX raises some of them as its own error, Orbax as ValueError.
    own = isinstance(error, jax.errors.JaxRuntimeError)
    return own or any(sign in str(error) for sign in SIGNS)


@contextlib.contextmanager
def ending_if_lost(next_start: Callable[[], str]) -> Iterator[None]:
    """Ends this process once another is lost; a normal exit would wait for that one.

    `launch` knows which one was lost and why, says so, and ends this process before it
    speaks.

    Args:
        next_start: returns what command does what next.
    """
    try:
        yield
    except Exception as error:
        if not is_loss(error):
            raise
        time.sleep(SILENT)
        reason = first_line(error).rpartition("Error dispatching computation: ")[2]
        print(
            f"error: process {jax.process_index()} lost another process ({reason}); "
            f"{next_start()}.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(LOST)
