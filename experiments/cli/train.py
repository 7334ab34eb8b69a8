# SPDX-License-Identifier: Apache-2.0
"""`train`: one run, from a config to its folder and report."""

import collections
import contextlib
import dataclasses
import functools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from experiments.cli.command import ConfigCommand, Flag
from experiments.cli.report import Shown, write_runs
from experiments.config import ExperimentConfig
from experiments.config.loading import load
from experiments.run.events import Events
from experiments.run.folder import METRICS, REPORT, locked, open_run_folder
from experiments.run.metrics import Record, cut_after, read_metrics, record
from experiments.run.progress import ProgressBar, describe, show_record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(ConfigCommand):
    """Trains what a config file describes, or resumes that run where it stopped.

    Any field can be changed on the command line; `train CONFIG --help` lists them all.
    """

    usage = "CONFIG [--workdir DIR] [--overwrite] [--FIELD.SUBFIELD VALUE ...]"
    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """The run's folder; runs/NAME unless given."""
    overwrite: Flag = False
    """Replace the run in the folder."""

    @classmethod
    def of(cls, path: Path) -> "Train":
        """Loads the config."""
        return cls(config=load(path, ExperimentConfig))

    def run(self, console: Console, command: str) -> int:
        """Trains or resumes, records each step, and draws the curves at the end.

        Returns:
            The exit status: that of the signal that stopped the run, else 0.
        """
        import jax

        from experiments.train.checkpoints import Checkpoints
        from experiments.train.loop import Stopped
        from experiments.train.processes import end_lost, first_does, is_first, join

        config, workdir = self.config, self.workdir or Path("runs") / self.config.name
        join(config)
        if not is_first():
            console = Console(quiet=True)
        with contextlib.ExitStack() as held:

            def open_folder() -> bool:
                held.enter_context(locked(workdir))
                return open_run_folder(workdir, config, overwrite=self.overwrite)

            resumes = first_does(open_folder)
            try:
                checkpoints = Checkpoints(workdir, config.train)
                with contextlib.closing(checkpoints):
                    if resumes:
                        step = checkpoints.latest or 0
                        console.print(f"Resuming after step {step}.", soft_wrap=True)
                    _train(console, config, workdir, checkpoints)
            except Stopped as stopped:
                number, step = stopped.args
                return _report_stopped(console, workdir, number, step)
            except jax.errors.JaxRuntimeError as error:
                if jax.process_count() == 1:
                    raise
                end_lost(error)
            if is_first():
                _report(console, config, workdir, command)
        return 0


def _train(
    console: Console, config: ExperimentConfig, workdir: Path, checkpoints: Any
) -> None:
    """Trains, and records each step; the first process writes."""
    from experiments.train.loop import train
    from experiments.train.processes import is_first
    from experiments.train.signals import stop_on_signals

    steps = config.train.num_steps
    with stop_on_signals() as request, ProgressBar(console, steps) as bar:
        bar.update(f"{config.name}: compiling")
        records = train(config, checkpoints=checkpoints, stop=request)
        if not is_first():
            collections.deque(records, maxlen=0)
            return
        begin = checkpoints.latest or 0
        cut_after(workdir / METRICS, begin)
        line_every = max(1, steps // 20)
        show: list[Callable[[Record], object]] = [
            functools.partial(show_record, bar, config.name, line_every=line_every)
        ]
        with contextlib.ExitStack() as held:
            if config.train.tensorboard:
                events = Events(workdir, begin=begin)
                show.append(held.enter_context(contextlib.closing(events)).write)
            record(workdir, records, lambda one: [each(one) for each in show])


def _report_stopped(console: Console, workdir: Path, number: int, step: int) -> int:
    """Says where the run stopped; returns the exit status of the signal."""
    word = "Interrupted" if number == signal.SIGINT else "Stopped by SIGTERM"
    console.print(
        f"{word} after step {step}. {workdir} holds the run up to there; the same "
        "command resumes it.",
        soft_wrap=True,
    )
    return 128 + number


def _report(
    console: Console, config: ExperimentConfig, workdir: Path, command: str
) -> None:
    """Says how the run ended, and writes its page."""
    records = read_metrics(workdir / METRICS)
    console.print(f"{config.name}: {describe(records[-1])}", soft_wrap=True)
    write_runs(
        workdir / REPORT,
        [Shown(config.name, {}, records)],
        title=config.name,
        summary=f"{config.model.name} network, norm {config.norm.kind}, "
        f"{config.optimizer.name} at {config.optimizer.learning_rate}, "
        f"{config.train.num_steps} steps of {config.data.batch_size} examples, seed "
        f"{config.seed}.",
        command=command,
    )
    console.print(f"Report: {workdir / REPORT}", soft_wrap=True)
