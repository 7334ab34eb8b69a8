# SPDX-License-Identifier: Apache-2.0
"""How a training run takes the signals of `experiments.run.interrupts`."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
from rich.console import Console

from experiments.run import interrupts
from experiments.run.folder import latest_step, resuming


class StopRequest:
    """Tells at each step whether to stop, and why; the same in all processes."""

    def __init__(self, console: Console, workdir: Path, *, overwrite: bool) -> None:
        """Starts without a request, before the first step."""
        self._console, self._workdir = console, workdir
        self._overwrite = overwrite
        self._asked: signal.Signals | None = None
        self._begun = False

    def __call__(self, step: int) -> signal.Signals | None:
        """Returns the signal that this process, or any of several, received."""
        self._begun = True
        if jax.process_count() == 1:
            return self._asked
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        if reached_preemption_sync_point(step):
            return self._asked or signal.SIGTERM
        return None

    def ask(self, number: signal.Signals) -> bool:
        """Takes a signal; returns whether the run ends by itself."""
        if not self._begun:
            return False
        if self._asked is not None:
            return number != signal.SIGINT
        self._asked = number
        if jax.process_count() > 1:
            # JAX watches for it, and tells the others.
            os.kill(os.getpid(), signal.SIGTERM)
        interrupts.speak(self._announce)
        return True

    def _announce(self) -> None:
        step = latest_step(self._workdir)
        lost = "all steps" if step is None else f"the steps since step {step}"
        self._console.print(
            f"Stopping after this step; Ctrl-C now ends at once, and loses {lost}.",
            soft_wrap=True,
        )

    def last_words(self, word: str) -> None:
        """Prints which step the run's folder holds."""
        step = latest_step(self._workdir)
        if not self._begun:
            text = f"{word} before the first step; nothing is lost."
        elif step is None:
            text = f"{word} before the first checkpoint; no step is saved."
        else:
            text = (
                f"{word}. {self._workdir} holds the run up to step {step}; "
                f"{resuming(overwrite=self._overwrite)} resumes it."
            )
        self._console.print(text, soft_wrap=True)


@contextlib.contextmanager
def stop_on_signals(
    console: Console, workdir: Path, *, overwrite: bool
) -> Iterator[StopRequest]:
    """In this block signals ask the run to stop, once it has begun."""
    request = StopRequest(console, workdir, overwrite=overwrite)
    interrupts.at_end(request.last_words)
    with interrupts.asking(request.ask):
        yield request
