# SPDX-License-Identifier: Apache-2.0
"""`train`: one run, from a config to its folder and report."""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from experiments.cli.command import ConfigCommand, Flag
from experiments.cli.dry_run import show_dry_run
from experiments.cli.report import Shown, write_runs
from experiments.config import ExperimentConfig
from experiments.config.identity import fields_of
from experiments.config.loading import load
from experiments.errors import SharedError
from experiments.run.events import Events
from experiments.run.folder import METRICS, REPORT, RunFolder, open_run_folder, resuming
from experiments.run.interrupts import word_for
from experiments.run.metrics import (
    Record,
    read_metrics,
    record,
    resume_metrics,
    series,
)
from experiments.run.progress import ProgressBar, RunProgress, describe
from experiments.run.provenance import code_digest, versions
from experiments.run.report import print_notes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(ConfigCommand):
    """Trains what a config file describes, or resumes that run where it stopped.

    Any field can be changed on the command line; `train CONFIG --help` lists them all.
    """

    usage = (
        "CONFIG [--workdir DIR] [--overwrite] [--dry-run] [--FIELD.SUBFIELD VALUE ...]"
    )
    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """The run's folder; runs/NAME unless given."""
    overwrite: Flag = False
    """Replace the run in the folder."""
    dry_run: Flag = False
    """Check everything, show layers, memory and the next batch, and write nothing."""

    @classmethod
    def of(cls, path: Path) -> "Train":
        """Loads the config."""
        return cls(config=load(path, ExperimentConfig))

    @property
    def folder(self) -> Path:
        """Where the run is."""
        return self.workdir or Path("runs") / self.config.name

    def run(self, console: Console, command: str) -> int:
        """Trains or resumes, records each step, and draws the curves at the end.

        Returns:
            The exit status: that of the signal that stopped the run, else 0; 2 where
            another process shows the error.
        """
        from experiments.train.processes import is_first

        try:
            return self._run(console, command)
        except SharedError:
            if is_first():
                raise
            return 2

    def _run(self, console: Console, command: str) -> int:
        from experiments.train.checkpoints import Checkpoints
        from experiments.train.loop import Stopped
        from experiments.train.processes import (
            ending_if_lost,
            first_does,
            is_first,
            join,
            require_same,
        )

        config, workdir = self.config, self.folder
        join(config)
        if not is_first():
            console = Console(quiet=True)
        require_same(
            lambda: (
                fields_of(config)
                | {"--overwrite": self.overwrite, "the code": code_digest()}
                | versions()
            )
        )
        with contextlib.ExitStack() as held:
            folder = first_does(
                lambda: held.enter_context(
                    open_run_folder(workdir, config, overwrite=self.overwrite)
                )
            )
            checkpoints = Checkpoints(
                workdir,
                config,
                begins=self.overwrite,
                on_first=folder.keep if folder else lambda: None,
                read_only=self.dry_run,
            )
            lost = functools.partial(ending_if_lost, checkpoints.next_start)
            try:
                # Before the end of the checkpoints too, which would wait for the lost.
                with lost(), contextlib.closing(checkpoints), lost():
                    if self.dry_run:
                        _show_dry_run(console, config, folder, checkpoints)
                        return 0
                    config = _train(
                        console,
                        config,
                        workdir,
                        folder,
                        checkpoints,
                        overwrite=self.overwrite,
                    )
            except Stopped as stopped:
                number, step = stopped.args
                return self._report_stopped(console, number, step)
            if is_first():
                _report(console, config, workdir, command)
        return 0

    def _report_stopped(self, console: Console, number: int, step: int) -> int:
        """Says where the run stopped; returns the exit status of the signal."""
        console.print(
            f"{word_for(number)} after step {step}. {self.folder} holds the run up to "
            f"there; {resuming(overwrite=self.overwrite)} resumes it.",
            soft_wrap=True,
        )
        return 128 + number


def _train(
    console: Console,
    config: ExperimentConfig,
    workdir: Path,
    folder: RunFolder | None,
    checkpoints: Any,
    *,
    overwrite: bool,
) -> ExperimentConfig:
    """Trains, and records each step; the process that has the folder writes.

    Returns:
        The config, with its length in steps.
    """
    from experiments.train.loop import Loop, train
    from experiments.train.processes import first_does
    from experiments.train.signals import stop_on_signals

    start = checkpoints.latest or 0
    show: list[Callable[[Record], object]] = []

    def claim(loop: Loop) -> None:
        """Takes the folder, and says what the user should know of the run."""
        assert folder is not None
        folder.claim()
        notes = [*folder.notes, *loop.notes]
        if folder.resumes:
            changed = "".join(f"; {text}" for text in folder.changes)
            notes.insert(0, f"Resuming after step {start}{changed}.")
        notes += resume_metrics(folder.path, start, loop.num_records)
        print_notes(console, notes)

    with (
        stop_on_signals(console, workdir, overwrite=overwrite) as request,
        ProgressBar(console, None, config.name) as bar,
        contextlib.ExitStack() as held,
    ):

        def begin(loop: Loop) -> None:
            """Begins the run, now that nothing can be wrong with it."""
            nonlocal config
            config, steps = loop.config, loop.config.train.total_steps
            first_does(lambda: claim(loop))
            bar.update(config.name, completed=loop.step, total=steps)
            line_every = max(1, steps // 20)
            show.append(RunProgress(bar, config.name, line_every=line_every))

        if folder is not None and config.train.tensorboard:
            events = Events(folder.path, begin=start)
            show.append(held.enter_context(contextlib.closing(events)).write)
        records = train(
            config,
            checkpoints=checkpoints,
            stop=request,
            begin=begin,
            tell=functools.partial(_tell, bar, config.name),
        )
        if folder is None:
            collections.deque(records, maxlen=0)
        else:
            record(folder.path, records, lambda one: [each(one) for each in show])
    return config


def _tell(bar: ProgressBar, name: str, doing: str) -> None:
    """Shows what takes time, also where there is no bar."""
    bar.update(f"{name}: {doing}")
    bar.line(f"{name}: {doing}")


def _show_dry_run(
    console: Console,
    config: ExperimentConfig,
    folder: RunFolder | None,
    checkpoints: Any,
) -> None:
    """Prepares the run as `_train` does, and shows it instead of beginning it."""
    from experiments.train.loop import Loop

    with ProgressBar(console, None, config.name) as bar:
        loop = Loop(config, checkpoints, functools.partial(_tell, bar, config.name))
        dry = loop.dry_run()
    print_notes(console, [*(folder.notes if folder else ()), *loop.notes])
    show_dry_run(console, loop.config, dry)
    start = checkpoints.latest
    begins = "begin at step 0" if start is None else f"resume after step {start}"
    console.print("Nothing was written. Without --dry-run, this would " + begins + ".")


def _early_stop(config: ExperimentConfig, records: list[Record]) -> str:
    """Returns a sentence on where and why the run ended before its last step."""
    steps, accuracies = series(records, "test_accuracy")
    best = max(accuracies)
    patience = config.train.patience
    return (
        f"Early stopping after step {records[-1].step} of {config.train.total_steps}: "
        f"the best test accuracy, {best:.2%}, is that of step "
        f"{steps[accuracies.index(best)]}, and none of the {patience} evaluations "
        "since then is better."
    )


def _report(
    console: Console, config: ExperimentConfig, workdir: Path, command: str
) -> None:
    """Says how the run ended, and writes its page."""
    from experiments.train.weights import export_best

    records = read_metrics(workdir / METRICS)
    if not any(one.loss is not None for one in records):
        return  # the history is lost, and a note names it
    stopped = records[-1].step < config.train.total_steps
    if stopped and config.train.patience is not None:
        console.print(_early_stop(config, records), soft_wrap=True)
    console.print(f"{config.name}: {describe(records[-1])}", soft_wrap=True)
    write_runs(
        workdir / REPORT,
        [Shown(config.name, {}, records)],
        title=config.name,
        summary=f"{config.model.name} network, norm {config.norm.kind}, "
        f"{config.optimizer.name} at {config.optimizer.learning_rate}, "
        f"{records[-1].step} steps of {config.data.batch_size} examples, seed "
        f"{config.seed}.",
        command=command,
    )
    console.print(f"Report: {workdir / REPORT}", soft_wrap=True)
    console.print(f"Best weights: {export_best(workdir)}", soft_wrap=True)
