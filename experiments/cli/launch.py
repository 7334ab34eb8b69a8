# SPDX-License-Identifier: Apache-2.0
"""`launch`: several processes of one training run on this machine, over loopback."""

import contextlib
import dataclasses
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.cli.command import Command, child
from experiments.cli.train import Train
from experiments.errors import UserError
from experiments.run import interrupts
from experiments.run.folder import begun_at, next_start

POLL = 0.1  # seconds
HELD = 0.5  # seconds that errors are held, in which a process is found to be lost
STOPPING = 10.0  # seconds for the others to end, after the first of those asked has
MISTAKE = 2  # the exit status
FORCED = 1.0  # seconds after a second Ctrl-C


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch(Command):
    """Starts N processes on this machine that train as one.

    On a cluster, start `train CONFIG --processes.detect` by srun or mpirun, or on each
    host of a TPU.
    """

    usage = "--num-processes N train CONFIG ..."
    num_processes: int
    workdir: Path
    overwrite: bool
    arguments: tuple[str, ...]

    @classmethod
    def parse(cls, name: str, arguments: Sequence[str], **default: Any) -> "Launch":
        """Reads the number of processes, and all that `train` is given.

        A mistake, and `--help`, are answered here, once for all processes.
        """
        match list(arguments):
            case ["--num-processes", number, "train", *rest]:
                pass
            case [option, "train", *rest] if option.startswith("--num-processes="):
                number = option.partition("=")[2]
            case _:
                number, rest = "", []
        if not number.isdecimal() or int(number) < 1:
            raise UserError(
                f"`{name}` takes `--num-processes N train CONFIG ...`, N at least 1, "
                f"got `{' '.join(arguments)}`; see --help."
            )
        options = _options(0, int(number), "localhost:1")
        train = Train.parse("train", [*rest, *options])
        assert isinstance(train, Train)
        return cls(
            num_processes=int(number),
            arguments=("train", *rest),
            workdir=train.folder,
            overwrite=train.overwrite,
        )

    def run(self, console: Console, command: str) -> int:
        """Starts the processes and waits for all.

        A signal asks all of them to stop, as it asks one that trains alone. If one
        dies, the others are stopped.

        Returns:
            The exit status: 0, or that of the signal, or that of the first that failed.
        """
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        with contextlib.ExitStack() as held:
            numbers = range(self.num_processes)
            started = [_start(self, address, number) for number in numbers]
            group = Group(
                [held.enter_context(process) for process in started],
                self.workdir,
                overwrite=self.overwrite,
            )
            with interrupts.asking(group.ask), group.errors_shown():
                return group.wait()


def _start(launch: Launch, address: str, number: int) -> interrupts.Child:
    """Starts one process; process 0 prints, the others print errors only."""
    program, environment = child("experiments")
    command = [
        *program,
        *launch.arguments,
        *_options(number, launch.num_processes, address),
    ]
    quiet = None if number == 0 else subprocess.DEVNULL
    # In a session of its own, so that the terminal's signals reach only the launcher.
    return interrupts.Child(
        command,
        stdout=quiet,
        stderr=subprocess.PIPE,
        errors="replace",
        start_new_session=True,
        env=environment,
    )


def _options(number: int, num_processes: int, address: str) -> list[str]:
    """Returns the arguments that tell one process of the others."""
    return [
        *("--processes.coordinator-address", address),
        *("--processes.num-processes", str(num_processes)),
        *("--processes.process-id", str(number)),
    ]


class Group:
    """Processes that end together."""

    def __init__(
        self, processes: Sequence[interrupts.Child], workdir: Path, *, overwrite: bool
    ):
        """Takes the processes, all running, and the folder of their run."""
        self._processes, self._workdir = processes, workdir
        self._overwrite, self._older = overwrite, begun_at(workdir)
        self._asked: signal.Signals | None = None
        self._deadline = math.inf
        self._first: int | None = None

    def ask(self, number: signal.Signals) -> bool:
        """Gives all processes a signal, so that all stop at the same step."""
        if self._asked is not None and number == signal.SIGINT:
            self._deadline = time.monotonic() + FORCED
        self._asked = self._asked or number
        for process in self._processes:
            process.ask(number)
        return True

    @contextlib.contextmanager
    def errors_shown(self) -> Iterator[None]:
        """In this block, what the processes write to standard error is shown."""
        threads = [
            threading.Thread(target=self._show_errors, args=(number,), daemon=True)
            for number in range(len(self._processes))
        ]
        for thread in threads:
            thread.start()
        yield
        for thread in threads:
            thread.join(2 * HELD)

    def _show_errors(self, number: int) -> None:
        """Shows the errors of a process, but not how it lost one that was killed.

        JAX's C++ would show that as a stack trace, and then abort.
        """
        errors = self._processes[number].stderr
        assert errors is not None
        while text := os.read(errors.fileno(), 2**16):
            time.sleep(HELD)
            first = self._first
            killed = first is not None and (self._processes[first].returncode or 0) < 0
            if first == number or not killed:
                sys.stderr.write(text.decode(errors="replace"))

    def wait(self) -> int:
        """Waits for all, and ends the others if one fails; returns the exit status."""
        while None in [process.poll() for process in self._processes]:
            time.sleep(POLL)
            if self._first is None and (first := self._first_failed()) is not None:
                self._first = first
                # They end by themselves if a signal or a mistake ends all.
                code = self._processes[first].returncode
                alone = self._asked is None and code != MISTAKE
                wait = 0.0 if alone else STOPPING
                self._deadline = min(self._deadline, time.monotonic() + wait)
            if time.monotonic() >= self._deadline:
                for process in self._processes:
                    process.kill()
        if self._first is None:
            self._first = self._first_failed()
        if self._first is None:
            return 0
        status = self._processes[self._first].returncode
        if self._asked is not None:
            return 128 + self._asked
        return status if status >= 0 else 128 - status

    def _first_failed(self) -> int | None:
        """Returns the number of a process that failed; reports one that cannot."""
        codes = {k: p.returncode for k, p in enumerate(self._processes) if p.returncode}
        if not codes:
            return None
        # Those that a signal ended are the cause; the others lost them, and abort.
        first = min(
            codes,
            key=lambda k: (codes[k] > 0, codes[k] == -signal.SIGABRT, k),
        )
        if codes[first] < 0 and self._deadline == math.inf:
            name = signal.Signals(-codes[first]).name
            then = self._next_start()
            print(
                f"error: process {first} of {len(self._processes)} was ended by "
                f"{name}; the others are stopped, and {then}.",
                file=sys.stderr,
            )
        return first

    def _next_start(self) -> str:
        """Returns what command does what next."""
        if self._overwrite and begun_at(self._workdir) == self._older:
            return "the same command starts again"  # the older run is still there
        return next_start(self._workdir, overwrite=self._overwrite)
