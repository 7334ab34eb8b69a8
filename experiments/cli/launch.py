# SPDX-License-Identifier: Apache-2.0
"""`launch`: several processes of one training run on this machine, over loopback."""

import contextlib
import dataclasses
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from experiments.cli.command import Command
from experiments.errors import UserError

POLL = 0.1  # seconds
PATIENCE = 60.0  # seconds from the first failure until the others are killed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch(Command):
    """Starts N processes on this machine that train as one.

    On a cluster, start `train CONFIG --processes.detect` by srun or mpirun, or on each
    host of a TPU.
    """

    usage = "--num-processes N train CONFIG ..."
    num_processes: int
    arguments: tuple[str, ...]

    @classmethod
    def parse(cls, name: str, arguments: Sequence[str], **default: Any) -> "Launch":
        """Reads the number of processes, and leaves the rest to them."""
        match list(arguments):
            case ["--num-processes", number, "train", *rest] if number.isdigit():
                if int(number) >= 1:
                    return cls(num_processes=int(number), arguments=("train", *rest))
        raise UserError(
            f"`{name}` takes `--num-processes N train CONFIG ...`, N at least 1, got "
            f"`{' '.join(arguments)}`; see --help."
        )

    def run(self, console: Console, command: str) -> int:
        """Starts the processes and waits for all.

        Ctrl-C and SIGTERM ask all of them to save and stop. If one dies, the others are
        stopped.

        Returns:
            The exit status: 0, or that of the first that failed.
        """
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        processes = [
            _start(number, self.num_processes, address, self.arguments)
            for number in range(self.num_processes)
        ]
        try:
            with _forward_signals(processes):
                return _wait(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _start(
    number: int, num_processes: int, address: str, arguments: Sequence[str]
) -> subprocess.Popen:
    """Starts one process; process 0 prints, the others print errors only."""
    command = [
        sys.executable,
        *("-m", "experiments", *arguments),
        *("--processes.coordinator-address", address),
        *("--processes.num-processes", str(num_processes)),
        *("--processes.process-id", str(number)),
    ]
    quiet = None if number == 0 else subprocess.DEVNULL
    # In a session of its own, so that Ctrl-C reaches only the launcher.
    return subprocess.Popen(command, stdout=quiet, start_new_session=True)


def _wait(processes: list[subprocess.Popen]) -> int:
    """Waits for all, and stops the others if one fails; returns the exit status."""
    deadline, status = None, 0
    while None in [process.poll() for process in processes]:
        time.sleep(POLL)
        failed = [(k, p.returncode) for k, p in enumerate(processes) if p.returncode]
        if failed and deadline is None:
            number, status = failed[0]
            deadline = time.monotonic() + PATIENCE
            if status < 0:  # by a signal: no message tells why
                name = signal.Signals(-status).name
                print(
                    f"error: process {number} of {len(processes)} was ended by {name}; "
                    "the others are stopped. The same command resumes from the last "
                    "checkpoint.",
                    file=sys.stderr,
                )
                deadline = time.monotonic()
        if deadline is not None and time.monotonic() >= deadline:
            for process in processes:
                process.kill()
    failures = [p.returncode for p in processes if p.returncode]
    status = status or (failures[0] if failures else 0)
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _forward_signals(processes: list[subprocess.Popen]) -> Iterator[None]:
    """Forwards Ctrl-C and SIGTERM as SIGTERM, which all see at the same step."""

    def forward(*_):
        for process in processes:
            if process.poll() is None:
                process.terminate()

    before = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
