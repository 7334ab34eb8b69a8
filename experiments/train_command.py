# SPDX-License-Identifier: Apache-2.0
"""One run, from a config to its folder and report."""

from pathlib import Path

from rich.console import Console

from experiments.config import ExperimentConfig
from experiments.metrics import Record, read_metrics, series
from experiments.plots import Run, curves
from experiments.progress import RunProgress, describe
from experiments.report import Picture, Table, write_report
from experiments.run_folder import METRICS, REPORT, create_run_folder, record
from experiments.training import train


def run(
    console: Console,
    config: ExperimentConfig,
    workdir: Path,
    *,
    overwrite: bool,
    command: str,
) -> None:
    """Trains, records as it goes, and draws the curves at the end."""
    create_run_folder(workdir, config, overwrite=overwrite)
    steps = config.train.num_steps
    try:
        with RunProgress(console, steps, line_every=max(1, steps // 20)) as progress:
            progress.start_run(config.name)
            records = record(workdir, train(config), progress.show)
    except KeyboardInterrupt:
        metrics = workdir / METRICS
        written = read_metrics(metrics) if metrics.exists() else []
        console.print(
            f"Interrupted after step {written[-1].step if written else 0}. {workdir} "
            f"holds config.json and the metrics so far, in {METRICS}.",
            soft_wrap=True,
        )
        raise
    console.print(f"{config.name}: {describe(records[-1])}", soft_wrap=True)
    _report(config, workdir, records, command)
    console.print(f"Report: {workdir / REPORT}", soft_wrap=True)


def _report(
    config: ExperimentConfig, workdir: Path, records: list[Record], command: str
) -> None:
    """Writes the run's page."""
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
