# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m experiments COMMAND ...`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import tyro
from rich.console import Console

from experiments.config import BenchConfig, ExperimentConfig, StudyConfig
from experiments.errors import UserError
from experiments.loading import available, load

Study = TypeVar("Study", bound=StudyConfig)
HELP = """\
usage: python -m experiments COMMAND ...

  train CONFIG [--workdir DIR] [--overwrite] [--FIELD.SUBFIELD VALUE ...]
      Trains what a config file says, or goes on where that run stopped. Any field can
      be changed on the command line; `train CONFIG --help` lists them all.
  study CONFIG [--workdir DIR] [--FIELD VALUE ...]
      Runs a study: trains what it compares, prints a table, draws a figure.
  report RUN [RUN ...] [--output FILE]
      Draws the curves of one or several runs' folders side by side, on one page.
  launch --num-processes N train CONFIG ...
      The same by N processes on this machine, which train as one.
  bench CONFIG [--workdir DIR] [--FIELD VALUE ...]
      Times one layer in jaxbn, Flax and, where installed, PyTorch, in turn.
  demo [--workdir DIR]
      Trains two networks on handwritten digits with and without batch norm, prints a
      table and writes a report.

examples:
  python -m experiments train configs/digits_dense.py
  python -m experiments train configs/digits_conv.py --norm.kind none --seed 1
  python -m experiments train configs/digits_dense.py --optimizer.learning-rate 0.01
  python -m experiments train configs/digits_conv.py --parallel.num-devices 4
  python -m experiments study configs/studies/adaptation.py --num-seeds 2
  python -m experiments bench configs/bench_layer.py --rounds 50

configs:
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Trains what a config file says, with these fields changed."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """The run's folder; runs/NAME unless given."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace a run that the folder holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Times one layer as a config file says, with these fields changed."""

    config: Annotated[BenchConfig, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """The folder of the results; runs/NAME unless given. Earlier ones are replaced."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyArguments(Generic[Study]):
    """Runs a study as a config file says, with these fields changed."""

    config: Annotated[Study, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """The folder of the results; runs/NAME unless given. Earlier ones are replaced."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Draws the curves of one or several runs side by side, on one page."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The folders of the runs."""
    output: Path = Path("runs/report.html")
    """The page."""

    def __post_init__(self):
        """Checks that there is one."""
        if not self.runs:
            raise ValueError("`report` takes at least one run's folder.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """Trains two networks on handwritten digits, with and without batch norm."""

    workdir: Path = Path("runs/demo")
    """The folder of the report and of the runs' folders; runs of an earlier demo in it
    are replaced."""


def help_text() -> str:
    """Returns the help, with the configs there are."""
    lines = [f"  {path}: {line}" for path, line in available()]
    return HELP + "\n".join(lines or ["  (none in configs/)"])


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
    from experiments.train_command import run

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
    from experiments.bench_command import bench

    bench(console, chosen.config, chosen.workdir or Path("runs") / chosen.config.name)


def study_command(arguments: Sequence[str], console: Console) -> None:
    """`study CONFIG ...`."""

    def make(path: Path):
        config = load(path, StudyConfig)
        return StudyArguments[type(config)], StudyArguments(config=config)

    chosen = configured("study", arguments, console, make)
    if chosen is None:
        return
    from experiments.study_command import study

    workdir = chosen.workdir or Path("runs") / chosen.config.name
    command = f"python -m experiments study {' '.join(arguments)}"
    try:
        study(console, chosen.config, workdir, command)
    except KeyboardInterrupt:
        console.print("Interrupted; a study is short, and begins anew.")
        raise


def report_command(arguments: Sequence[str], console: Console) -> None:
    """`report RUN ...`."""
    prog = "python -m experiments report"
    chosen = tyro.cli(ReportArguments, prog=prog, args=arguments)
    from experiments.report_command import report

    command = f"{prog} {' '.join(arguments)}"
    report(console, chosen.runs, chosen.output, command)


def launch_command(arguments: Sequence[str], console: Console) -> int:
    """`launch --num-processes N train CONFIG ...`; returns the exit status."""
    from experiments.launch_command import launch, parse

    return launch(*parse(arguments))


def demo_command(arguments: Sequence[str], console: Console) -> None:
    """`demo ...`."""
    chosen = tyro.cli(DemoArguments, prog="python -m experiments demo", args=arguments)
    from experiments.demo import demo

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
