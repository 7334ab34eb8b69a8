# SPDX-License-Identifier: Apache-2.0
"""Progress: a live bar in a terminal, plain lines in a pipe."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.table import Column

from experiments.run.metrics import Record


def describe(record: Record) -> str:
    """Returns the numbers of a record as people read them."""
    parts = []
    if record.loss is not None:
        parts.append(f"loss {record.loss:.4f}")
    if record.accuracy is not None:
        parts.append(f"accuracy {record.accuracy:.1%}")
    if record.test_accuracy is not None:
        parts.append(f"test accuracy {record.test_accuracy:.1%}")
    if record.average_test_accuracy is not None:
        parts.append(f"by averaged weights {record.average_test_accuracy:.1%}")
    if record.ms_per_step is not None:
        parts.append(f"{record.ms_per_step:.2f} ms/step")
    if record.images_per_second is not None:
        parts.append(f"{record.images_per_second:.0f} images/s")
    if record.data_wait is not None and record.data_wait > 0.05:
        parts.append(f"{record.data_wait:.0%} of the time waiting for data")
    return ", ".join(parts)


class RunProgress:
    """Shows how far the steps of one or several runs are."""

    def __init__(self, console: Console, num_steps: int, *, line_every: int):
        """Takes the steps in all, and how many there are to a plain line."""
        self._console = console
        self._line_every = line_every
        self._finished = 0  # steps of the runs before this one
        self._label = ""
        self._bar = Progress(
            BarColumn(bar_width=20, table_column=Column(min_width=20)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            Remaining(compact=True, table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.description}",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=console,
            expand=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("compiling", total=num_steps)

    def start_run(self, label: str, *, finished: int = 0) -> None:
        """Says which run comes, and how many steps the ones before it had."""
        self._label, self._finished = label, finished
        self._bar.update(self._task, description=f"{label}: compiling")

    def show(self, record: Record) -> None:
        """Shows a record."""
        if self._console.is_terminal:
            text = f"{self._label}: {describe(record)}"
            done = self._finished + record.step
            self._bar.update(self._task, completed=done, description=text)
        elif record.step % self._line_every == 0:
            self._console.print(
                f"{self._label}: step {record.step}: {describe(record)}", soft_wrap=True
            )

    def __enter__(self) -> "RunProgress":
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(None, None, None)
