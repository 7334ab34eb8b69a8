# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m experiments COMMAND ...`."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import tyro
from rich.console import Console

from experiments.cli.arguments import (
    BenchArguments,
    DemoArguments,
    LabArguments,
    ReportArguments,
    StudyArguments,
    TrainArguments,
)
from experiments.cli.help import help_text
from experiments.config import BenchConfig, ExperimentConfig, StudyConfig
from experiments.config.loading import FOLDER, available, load
from experiments.errors import UserError


def configured(command: str, arguments: Sequence[str], console: Console, make):
    """Loads the config that comes first, and changes what the other arguments say.

    `make` returns the type of the arguments and their defaults. Returns None where only
    help was asked for.
    """
    if not arguments or arguments[0].startswith("-"):
        if set(arguments) & {"-h", "--help"}:
            console.print(help_text(), markup=False, highlight=False, soft_wrap=True)
            return None
        raise UserError(f"`{command}` takes a config file first; see --help.")
    path, *rest = arguments
    kind, default = make(Path(path))
    try:
        return tyro.cli(
            kind,
            prog=f"python -m experiments {command} {path}",
            default=default,
            args=rest,
        )
    except ValueError as error:  # of fields that do not fit each other
        raise UserError(str(error)) from error


def train_command(arguments: Sequence[str], console: Console) -> int | None:
    """`train CONFIG ...`; returns the exit status."""

    def make(path: Path):
        return TrainArguments, TrainArguments(config=load(path, ExperimentConfig))

    chosen = configured("train", arguments, console, make)
    if chosen is None:
        return
    # Imported late: --help and every error above should not wait for JAX.
    from experiments.cli.train import run

    workdir = chosen.workdir or Path("runs") / chosen.config.name
    command = f"python -m experiments train {' '.join(arguments)}"
    overwrite = chosen.overwrite
    return run(console, chosen.config, workdir, overwrite=overwrite, command=command)


def bench_command(arguments: Sequence[str], console: Console) -> None:
    """`bench CONFIG ...`."""

    def make(path: Path):
        return BenchArguments, BenchArguments(config=load(path, BenchConfig))

    chosen = configured("bench", arguments, console, make)
    if chosen is None:
        return
    from experiments.cli.bench import bench

    bench(console, chosen.config, chosen.workdir or Path("runs") / chosen.config.name)


def study_command(arguments: Sequence[str], console: Console) -> None:
    """`study CONFIG ...`."""
    loaded: list[StudyConfig] = []

    def make(path: Path):
        config = load(path, StudyConfig)
        loaded.append(config)
        names = "num_seeds", "first_seed", "num_workers"
        fields = {name: getattr(config, name) for name in names}
        return StudyArguments, StudyArguments(**fields)

    chosen = configured("study", arguments, console, make)
    if chosen is None:
        return
    command = f"python -m experiments study {' '.join(arguments)}"
    from experiments.cli.lab import study

    fields = dataclasses.asdict(chosen)
    workdir, overwrite = fields.pop("workdir"), fields.pop("overwrite")
    try:
        config = dataclasses.replace(loaded[0], **fields)
    except ValueError as error:
        raise UserError(str(error)) from error
    workdir = workdir or Path("runs/lab") / config.name
    with said_if_interrupted(console):
        study(console, config, workdir, command, overwrite=overwrite)


def lab_command(arguments: Sequence[str], console: Console) -> None:
    """`lab ...`."""
    prog = "python -m experiments lab"
    chosen = tyro.cli(LabArguments, prog=prog, args=arguments)
    from experiments.cli.lab import lab

    paths = [path for path, _ in available(FOLDER / "studies")]
    studies = [(load(path, StudyConfig), path) for path in paths]
    command = " ".join([prog, *arguments])
    with said_if_interrupted(console):
        lab(console, studies, chosen.workdir, command, overwrite=chosen.overwrite)


@contextlib.contextmanager
def said_if_interrupted(console: Console) -> Iterator[None]:
    """On Ctrl-C, says what becomes of the runs."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(
            "Interrupted. Finished runs are kept; the same command goes on.",
            soft_wrap=True,
        )
        raise


def report_command(arguments: Sequence[str], console: Console) -> None:
    """`report RUN ...`."""
    prog = "python -m experiments report"
    chosen = tyro.cli(ReportArguments, prog=prog, args=arguments)
    from experiments.cli.report import report

    command = f"{prog} {' '.join(arguments)}"
    report(console, chosen.runs, chosen.output, command)


def launch_command(arguments: Sequence[str], console: Console) -> int:
    """`launch --num-processes N train CONFIG ...`; returns the exit status."""
    from experiments.cli.launch import launch, parse

    return launch(*parse(arguments))


def demo_command(arguments: Sequence[str], console: Console) -> None:
    """`demo ...`."""
    chosen = tyro.cli(DemoArguments, prog="python -m experiments demo", args=arguments)
    from experiments.cli.demo import demo

    try:
        demo(console, chosen.workdir)
    except KeyboardInterrupt:
        console.print(
            f"Interrupted. The runs that began are in {chosen.workdir}, each with its "
            "config.json and metrics.jsonl; the next demo starts anew.",
            soft_wrap=True,
        )
        raise


COMMANDS = {
    "train": train_command,
    "report": report_command,
    "launch": launch_command,
    "study": study_command,
    "lab": lab_command,
    "bench": bench_command,
    "demo": demo_command,
}


def main(arguments: Sequence[str]) -> int:
    """Runs a command and returns the exit status."""
    console = Console()
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            console.print(help_text(), markup=False, highlight=False, soft_wrap=True)
            return 0
        name, *rest = arguments
        if name not in COMMANDS:
            raise UserError(
                f"there is no command `{name}`; there are: {', '.join(COMMANDS)}. See "
                "--help."
            )
        return COMMANDS[name](rest, console) or 0
    except KeyboardInterrupt:
        return 130
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
