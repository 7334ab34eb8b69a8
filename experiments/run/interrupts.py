# SPDX-License-Identifier: Apache-2.0
"""What Ctrl-C, SIGTERM and SIGHUP do, in any phase of any command.

- Before the first training step, and in commands that do not train step by step, a
  signal ends the process at once; the last words are what is kept on disk.
- From the first step on, the first signal asks the run to finish its step, to save and
  to end. Ctrl-C after that ends it at once; the last words name the step that is saved.
- The exit status is 128 + the signal's number. A file is never cut short, but for the
  last line of a log.
- A child ends with the process that started it, however that one ends.

The main thread may be in C++ for minutes: the compiler, a step, the wait for other
processes. Python's handlers do not run there, so they do nothing, and a thread reads
the signals from the file that `signal.set_wakeup_fd` writes them to. It ends the
process by `os._exit`, since an exception would have to wait for the main thread.
"""

import contextlib
import dataclasses
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 1.0  # seconds for the last words, whose reader may have stopped
ORPHAN_PATIENCE = 15.0  # seconds for a child to save after its parent is gone
PARENT = "JAXBN_PARENT_PIPE"

LastWords = Callable[[str], object]
"""Prints what is kept, after the word for the signal: `Interrupted`."""


def _nothing_is_lost(word: str) -> None:
    print(f"{word}; nothing is lost.", flush=True)


@dataclasses.dataclass
class _Answer:
    """What a signal does at this moment."""

    last_words: LastWords = _nothing_is_lost
    ask: Callable[[signal.Signals], bool] = lambda number: False
    tidy: Callable[[], object] = lambda: None


_answer = _Answer()
shield = threading.RLock()
"""Held while files are written that belong together; a signal waits for its release."""


def watch(last_words: LastWords = _nothing_is_lost) -> None:
    """Starts the watch; a program calls it before it imports anything that takes time.

    A signal that this process was started to ignore, as by `nohup`, stays ignored.
    """
    _answer.last_words = last_words
    signals, written = os.pipe()
    os.set_blocking(written, False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    parent = os.environ.pop(PARENT, None)
    pipes = [signals] if parent is None else [signals, int(parent)]
    for pipe in pipes:
        os.set_inheritable(pipe, False)
    threading.Thread(target=_read, args=(pipes,), daemon=True).start()


def at_end(last_words: LastWords) -> None:
    """Sets what is printed before a signal ends the process, from now on."""
    _answer.last_words = last_words


@contextlib.contextmanager
def asking(ask: Callable[[signal.Signals], bool]) -> Iterator[None]:
    """In this block, `ask` is given each signal; it returns False to end at once."""
    before, _answer.ask = _answer.ask, ask
    try:
        yield
    finally:
        _answer.ask = before


@contextlib.contextmanager
def tidying(tidy: Callable[[], object]) -> Iterator[None]:
    """In this block, `tidy` is called before the last words: it restores a terminal."""
    before, _answer.tidy = _answer.tidy, tidy
    try:
        yield
    finally:
        _answer.tidy = before


def word_for(number: int) -> str:
    """Returns how a sentence about a signal begins."""
    name = signal.Signals(number).name
    return "Interrupted" if number == signal.SIGINT else f"Stopped by {name}"


def speak(words: Callable[[], object], *, wait: float = 0.0) -> None:
    """Prints from a thread, since a reader that stopped would block the caller."""

    def run() -> None:
        # Of a terminal that is gone, or while the interpreter ends.
        with contextlib.suppress(Exception):
            words()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(wait)


class Child(subprocess.Popen[str]):
    """A process that ends with this one, even if this one is killed.

    It holds the read end of a pipe whose other end is here only: the pipe carries
    signals, and its end tells the child that its parent is gone. This needs no more
    than POSIX, and no code between fork and exec. The child's program calls `watch`.
    """

    def __init__(
        self, command: Sequence[str], *, env: dict[str, str] | None = None, **more: Any
    ):
        """Starts the process; the arguments are those of `subprocess.Popen`."""
        theirs, self._pipe = os.pipe()
        env = {**(os.environ if env is None else env), PARENT: str(theirs)}
        try:
            super().__init__(command, env=env, pass_fds=(theirs,), **more)
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(theirs)

    def ask(self, number: signal.Signals) -> None:
        """Gives the child a signal, which it takes as one from the terminal.

        SIGTERM itself would not do: where JAX watches for it, Python sees none.
        """
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe, bytes([number]))

    def __exit__(self, *error: Any) -> None:
        """Ends the process, if it still runs."""
        self.kill()
        super().__exit__(*error)
        os.close(self._pipe)


def _read(pipes: list[int]) -> None:
    """Acts on the signals, one after the other, as long as the process lives."""
    while True:
        for pipe in select.select(pipes, [], [])[0]:
            numbers = os.read(pipe, 1)
            if not numbers:  # the parent is gone
                pipes.remove(pipe)
                limit = threading.Timer(ORPHAN_PATIENCE, _end, (signal.SIGHUP,))
                limit.daemon = True
                limit.start()
            number = signal.Signals(numbers[0] if numbers else signal.SIGHUP)
            if number in SIGNALS and not _answer.ask(number):
                _end(number)


def _end(number: signal.Signals) -> None:
    shield.acquire(timeout=PATIENCE)

    def words() -> None:
        _answer.tidy()
        _answer.last_words(word_for(number))
        if sys.stdout is not None:
            sys.stdout.flush()

    speak(words, wait=PATIENCE)
    os._exit(128 + number)
