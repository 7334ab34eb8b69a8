# SPDX-License-Identifier: Apache-2.0
"""Signals that ask a run to stop: it finishes the step, saves, and exits."""

import contextlib
import signal
from collections.abc import Iterator

import jax


class StopRequest:
    """Tells at each step whether to stop, and why; the same in all processes."""

    def __init__(self) -> None:
        """Starts without a request."""
        self.signal: signal.Signals | None = None

    def __call__(self, step: int) -> signal.Signals | None:
        """Returns the signal that this process, or any of several, received."""
        if jax.process_count() == 1:
            return self.signal
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        if self.signal is None and reached_preemption_sync_point(step):
            self.signal = signal.SIGTERM
        return self.signal


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Catches SIGTERM and the first Ctrl-C; a second Ctrl-C ends at once.

    With several processes JAX itself watches for SIGTERM and tells the others.
    """
    request = StopRequest()
    if jax.process_count() > 1:
        yield request
        return

    def ask(number, _):
        request.signal = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
