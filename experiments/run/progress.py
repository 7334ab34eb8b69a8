# SPDX-License-Identifier: Apache-2.0
"""Progress: a live bar in a terminal, plain lines in a pipe."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from experiments.run.metrics import Record

TEXTS = {
    "loss": "loss {:.4f}",
    "accuracy": "accuracy {:.1%}",
    "test_accuracy": "test accuracy {:.1%}",
    "average_test_accuracy": "by averaged weights {:.1%}",
    "ms_per_step": "{:.2f} ms/step",
    "images_per_second": "{:.0f} images/s",
    "data_wait": "{:.0%} of the time waiting for data",
}


class ProgressBar:
    """A bar with a text where the console is a terminal; plain lines where not."""

    def __init__(self, console: Console, total: int, text: str = ""):
        """Takes how many there are to do, and the first text."""
        self._console = console
        self._bar = Progress(
            BarColumn(bar_width=20, table_column=Column(min_width=20)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.description}",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=console,
            expand=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(text, total=total)

    def update(
        self,
        text: str | None = None,
        *,
        completed: int | None = None,
        advance: int | None = None,
    ) -> None:
        """Changes the text, and how many are done, or how many more."""
        self._bar.update(
            self._task, description=text, completed=completed, advance=advance
        )

    def line(self, text: str) -> None:
        """Prints a line where there is no bar."""
        if not self._console.is_terminal:
            self._console.print(text, soft_wrap=True)

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def show_record(
    bar: ProgressBar, label: str, record: Record, *, line_every: int, finished: int = 0
) -> None:
    """Shows a record of the run named `label` on a bar of steps.

    Args:
        bar: the bar.
        label: names the run.
        record: what is shown.
        line_every: the number of steps from one plain line to the next.
        finished: the steps of the runs before this one.
    """
    numbers = describe(record)
    bar.update(f"{label}: {numbers}", completed=finished + record.step)
    if record.step % line_every == 0:
        bar.line(f"{label}: step {record.step}: {numbers}")


def describe(record: Record) -> str:
    """Returns the numbers of a record as people read them."""
    return ", ".join(
        text.format(value)
        for name, text in TEXTS.items()
        if (value := getattr(record, name)) is not None
        and (name != "data_wait" or value > 0.05)
    )
