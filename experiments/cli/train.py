# SPDX-License-Identifier: Apache-2.0
"""One run, from a config to its folder and report."""

import collections
import contextlib
import signal
from pathlib import Path

import jax
from rich.console import Console

from experiments.config import ExperimentConfig
from experiments.run.events import Events
from experiments.run.folder import (
    METRICS,
    REPORT,
    locked,
    open_run_folder,
    record,
)
from experiments.run.metrics import cut_after, read_metrics, series
from experiments.run.plots import Run, curves
from experiments.run.progress import RunProgress, describe
from experiments.run.report import Picture, Table, write_report
from experiments.train.checkpoints import Checkpoints
from experiments.train.loop import Stopped, train
from experiments.train.processes import end_lost, first_does, is_first, join
from experiments.train.signals import stop_on_signals


def run(
    console: Console,
    config: ExperimentConfig,
    workdir: Path,
    *,
    overwrite: bool,
    command: str,
) -> int:
    """Trains, or goes on, records as it goes, and draws the curves at the end.

    Returns:
        The exit status: that of the signal that stopped the run, else 0.
    """
    join(config)
    if not is_first():
        console = Console(quiet=True)
    with contextlib.ExitStack() as held:

        def open_folder() -> bool:
            held.enter_context(locked(workdir))
            return open_run_folder(workdir, config, overwrite=overwrite)

        here_before = first_does(open_folder)
        try:
            checkpoints = Checkpoints(workdir, config.train)
            with contextlib.closing(checkpoints):
                begin = checkpoints.latest or 0
                if here_before:
                    console.print(f"Going on after step {begin}.", soft_wrap=True)
                _train(console, config, workdir, checkpoints)
        except Stopped as stopped:
            return _say_stopped(console, workdir, stopped)
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            end_lost(error)
        if is_first():
            _report(console, config, workdir, command)
    return 0


def _train(
    console: Console, config: ExperimentConfig, workdir: Path, checkpoints: Checkpoints
) -> None:
    """Trains, and records as it goes; the first process writes."""
    steps = config.train.num_steps
    with (
        stop_on_signals() as request,
        RunProgress(console, steps, line_every=max(1, steps // 20)) as progress,
    ):
        progress.start_run(config.name)
        records = train(config, checkpoints=checkpoints, stop=request)
        if not is_first():
            collections.deque(records, maxlen=0)
            return
        begin = checkpoints.latest or 0
        cut_after(workdir / METRICS, begin)
        show = [progress.show]
        with contextlib.ExitStack() as held:
            if config.train.tensorboard:
                events = Events(workdir, begin=begin)
                show.append(held.enter_context(contextlib.closing(events)).write)
            record(workdir, records, lambda one: [each(one) for each in show])


def _say_stopped(console: Console, workdir: Path, stopped: Stopped) -> int:
    """Says where the run is; returns the exit status of the signal."""
    number, step = stopped.args
    word = "Interrupted" if number == signal.SIGINT else "Stopped by SIGTERM"
    console.print(
        f"{word} after step {step}. {workdir} holds all up to there; the same command "
        "goes on.",
        soft_wrap=True,
    )
    return 128 + number


def _report(
    console: Console, config: ExperimentConfig, workdir: Path, command: str
) -> None:
    """Says how the run ended, and writes its page."""
    records = read_metrics(workdir / METRICS)
    console.print(f"{config.name}: {describe(records[-1])}", soft_wrap=True)
    names = ("loss", "accuracy", "test_loss", "test_accuracy", "ms_per_step")
    last = {name: series(records, name)[1][-1] for name in names}
    table = Table(
        [name.replace("_", " ") for name in last],
        [[f"{value:.4g}" for value in last.values()]],
        "The last of each. Loss and accuracy are means over the steps since the line "
        "before, by batch statistics; the test's are by running averages.",
    )
    write_report(
        workdir / REPORT,
        title=config.name,
        summary=f"{config.model.name} network, norm {config.norm.kind}, "
        f"{config.optimizer.name} at {config.optimizer.learning_rate}, "
        f"{config.train.num_steps} steps of {config.data.batch_size} examples, seed "
        f"{config.seed}.",
        table=table,
        figures=[Picture(curves(config.name, [Run(config.name, records)]), "")],
        command=command,
    )
    console.print(f"Report: {workdir / REPORT}", soft_wrap=True)
