# SPDX-License-Identifier: Apache-2.0
"""Progress: a live bar in a terminal, plain lines in a pipe."""

import contextlib
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from experiments.run import interrupts
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
LIVE = {
    "test_accuracy": "test {:.1%}",
    "loss": "loss {:.4f}",
    "ms_per_step": "{:.1f} ms/step",
    "average_test_accuracy": "averaged {:.1%}",
    "accuracy": "training {:.1%}",
    "images_per_second": "{:.0f} images/s",
    "data_wait": "waiting {:.0%}",
}
"""The same for a line with little room, the most important first."""
ESSENTIAL = 3
"""For these numbers a long label is shortened; the others are left out instead."""
LABEL = 8
"""To how many characters a label is shortened before numbers are left out."""


class Line:
    """A label and numbers, as much of both as there is room for."""

    def __init__(self, label: str, numbers: Sequence[str] = ()):
        """Takes the most important number first."""
        self._label, self._numbers = label, numbers

    def __rich_measure__(
        self, console: Console, options: ConsoleOptions
    ) -> Measurement:
        """Any width will do."""
        return Measurement(1, options.max_width)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        """Yields the text that fits into the width."""
        text = Text(self._fitted(options.max_width))
        text.truncate(options.max_width, overflow="ellipsis")
        yield text

    def _fitted(self, width: int) -> str:
        """Returns the text; with no room for one number, what comes first."""
        size = cell_len(self._label)
        for num in range(len(self._numbers), 0, -1):
            numbers = ", ".join(self._numbers[:num])
            room = width - cell_len(numbers) - 2
            if room >= (size if num > ESSENTIAL else min(size, LABEL)):
                label = Text(self._label)
                label.truncate(room, overflow="ellipsis")
                return f"{label.plain}: {numbers}"
        return self._numbers[0] if self._numbers else self._label


class LineColumn(ProgressColumn):
    """The line of a task, which takes the width that the other columns leave."""

    def __init__(self):
        """Sets the width."""
        super().__init__(Column(ratio=1, no_wrap=True))

    def render(self, task: Task) -> Line:
        """Returns the line."""
        return task.fields["line"]


class ProgressBar:
    """A bar with a text where the console is a terminal; plain lines where not."""

    def __init__(self, console: Console, total: int | None, text: str = ""):
        """Takes how many there are to do, if that is known, and the first text."""
        self._console = console
        self._held = contextlib.ExitStack()
        columns = [
            BarColumn(bar_width=min(20, max(5, console.width // 8))),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            LineColumn(),
        ]
        if console.width < 60:
            del columns[2]
        self._bar = Progress(
            *columns,
            console=console,
            expand=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, line=Line(text))

    def update(
        self,
        line: str | Line | None = None,
        *,
        completed: int | None = None,
        advance: int | None = None,
        total: int | None = None,
    ) -> None:
        """Changes the line, how many are done, or how many more, and the total."""
        fields = {}
        if line is not None:
            fields["line"] = Line(line) if isinstance(line, str) else line
        self._bar.update(
            self._task, completed=completed, advance=advance, total=total, **fields
        )

    def line(self, text: str) -> None:
        """Prints a line where there is no bar."""
        if not self._console.is_terminal:
            self._console.print(text, soft_wrap=True)

    def __enter__(self) -> "ProgressBar":
        self._held.enter_context(self._bar)
        self._held.enter_context(interrupts.tidying(self._bar.stop))
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()


class RunProgress:
    """Shows the records of a run on a bar of steps; its last numbers stay there."""

    def __init__(
        self, bar: ProgressBar, label: str, *, line_every: int, finished: int = 0
    ):
        """Shows nothing yet.

        Args:
            bar: the bar.
            label: names the run.
            line_every: the number of steps from one plain line to the next.
            finished: the steps of the runs before this one.
        """
        self._bar, self._label = bar, label
        self._line_every, self._finished = line_every, finished
        self._last = Record(0)

    def __call__(self, record: Record) -> None:
        """Shows a record."""
        taken = {k: v for k, v in record._asdict().items() if v is not None}
        self._last = self._last._replace(**taken)
        line = Line(self._label, _numbers(self._last, LIVE))
        self._bar.update(line, completed=self._finished + record.step)
        if record.step % self._line_every == 0:
            self._bar.line(f"{self._label}: step {record.step}: {describe(record)}")


def describe(record: Record) -> str:
    """Returns the numbers of a record as people read them."""
    return ", ".join(_numbers(record, TEXTS))


def _numbers(record: Record, texts: dict[str, str]) -> list[str]:
    return [
        text.format(value)
        for name, text in texts.items()
        if (value := getattr(record, name)) is not None
        and (name != "data_wait" or value > 0.05)
    ]
