# SPDX-License-Identifier: Apache-2.0
"""`evaluate`: how runs score on the test set, and which classes they mistake."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from experiments.cli.command import Command, Flag
from experiments.errors import UserError
from experiments.run.folder import METRICS
from experiments.run.metrics import read_metrics
from experiments.run.progress import ProgressBar
from experiments.run.report import Table, print_table

if TYPE_CHECKING:
    from experiments.train.prediction import Mistakes
    from experiments.train.saved import SavedRun

Checkpoint = Literal["best", "latest"] | int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Scores runs on the test set of their data, class by class.

    The accuracy is what training measured at that step: the same examples are right,
    whatever the devices and the mode of training; the loss is the same up to rounding.
    One device is used. A run in training is read and not disturbed.

    Examples: `evaluate runs/digits_conv`, `evaluate runs/* --checkpoint latest`,
    `evaluate runs/a --data.path /new/place`.
    """

    usage = "RUN [RUN ...] [--checkpoint best|latest|STEP] [--average]"
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The folders of the runs."""
    checkpoint: Checkpoint = "best"
    """best: by test accuracy; latest; or the step of a checkpoint that is kept."""
    average: Flag = False
    """Score the averaged weights, by statistics over all training examples, as training
    does; for runs with train.average_decay."""
    data_path: Annotated[str | None, tyro.conf.arg(name="data.path")] = None
    """The folder of the data, if it is not where the run had it."""
    num_classes: int = 10
    """How many classes the second table lists, those with most mistakes first; 0: no
    such table."""

    def run(self, console: Console, command: str) -> None:
        """Scores one run after the other, and prints the tables."""
        from experiments.train import saved

        if not self.runs:
            raise UserError("`evaluate` takes at least one run's folder.")
        if self.num_classes < 0:
            raise UserError(f"`num_classes` must be >= 0, got {self.num_classes}.")
        places = [folder.absolute() for folder in self.runs]
        for folder, place in zip(self.runs, places, strict=True):
            if places.count(place) > 1:
                raise UserError(f"`{folder}` must be given once, got it twice.")
        which, path = self.checkpoint, self.data_path
        runs = [saved.load(folder, which, path=path) for folder in self.runs]
        found = [self._score(console, run) for run in runs]
        rows = [
            _row(run, mistakes, average=self.average)
            for run, mistakes in zip(runs, found, strict=True)
        ]
        print_table(console, Table(HEADER, rows, NOTE))
        for run, mistakes in zip(runs, found, strict=True):
            if self.num_classes:
                print_table(console, _by_class(run, mistakes, self.num_classes))

    def _score(self, console: Console, run: "SavedRun") -> "Mistakes":
        from experiments.data import load_dataset
        from experiments.train.evaluation import with_average
        from experiments.train.prediction import find_mistakes

        dataset = load_dataset(run.config.data)
        shape = dataset.test.load(0, None)[0].shape
        if (dataset.class_names, shape) != (run.class_names, run.image_shape):
            raise UserError(
                f"the data at `{run.config.data.path}` must have the classes and the "
                f"image shape that `{run.folder}` was trained on, "
                f"{_described(run.class_names, run.image_shape)}, got "
                f"{_described(dataset.class_names, shape)}."
            )
        if self.average:
            if not run.state.average:
                raise UserError(
                    f"`--average` needs a run with train.average_decay; `{run.folder}` "
                    "has kept no averaged weights."
                )
            console.print(
                f"{run.folder}: statistics of the averaged weights over "
                f"{len(dataset.train)} training examples ...",
                soft_wrap=True,
                markup=False,
            )
            state = with_average(run.model, run.state, dataset.train)
            run = run._replace(state=state)
        with ProgressBar(console, len(dataset.test), f"{run.folder}") as bar:
            return find_mistakes(
                run, dataset.test, lambda done: bar.update(completed=done)
            )


HEADER = ["run", "step", "examples", "loss", "accuracy", "top-5", "in training"]
NOTE = (
    "Mean cross-entropy, the fraction that is right, the fraction whose label is among "
    "the five most probable classes; the accuracy that training measured at this step."
)


def _row(run: "SavedRun", mistakes: "Mistakes", *, average: bool) -> list[str]:
    return [
        str(run.folder),
        str(run.step),
        str(mistakes.table.sum()),
        f"{mistakes.loss:.4f}",
        f"{mistakes.accuracy:.2%}",
        f"{mistakes.top_5:.2%}" if len(run.class_names) > 5 else "-",
        _in_training(run, average=average),
    ]


def _in_training(run: "SavedRun", *, average: bool) -> str:
    """Returns the accuracy that the run's metrics have for the step, or a dash."""
    path = run.folder / METRICS
    name = "average_test_accuracy" if average else "test_accuracy"
    for record in read_metrics(path) if path.is_file() else []:
        if record.step == run.step and (value := getattr(record, name)) is not None:
            return f"{value:.2%}"
    return "-"


def _by_class(run: "SavedRun", mistakes: "Mistakes", num: int) -> Table:
    """Returns the classes with most mistakes for their size, those first."""
    sizes = mistakes.table.sum(1)
    right = mistakes.table.diagonal()
    classes = [label for label in range(len(sizes)) if sizes[label]]
    classes.sort(key=lambda label: right[label] / sizes[label])
    rows = []
    for label in classes[:num]:
        wrong = mistakes.table[label].copy()
        wrong[label] = 0
        other = int(wrong.argmax())
        rows.append(
            [
                run.class_names[label],
                str(sizes[label]),
                f"{right[label] / sizes[label]:.2%}",
                f"{run.class_names[other]} ({wrong[other]})" if wrong[other] else "-",
            ]
        )
    left = len(classes) - len(rows)
    note = f"The other {left} classes are right as often, or more. " if left else ""
    return Table(
        ["class", "examples", "accuracy", "most often taken for"],
        rows,
        f"{note}In brackets: how many.",
        title=f"{run.folder}, step {run.step}",
    )


def _described(names: tuple[str, ...], shape: tuple[int, ...]) -> str:
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} classes ({some}) of {'x'.join(map(str, shape))}"
