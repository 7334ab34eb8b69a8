# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m experiments COMMAND ...`."""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    # Ctrl-C during the next imports ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import inspect
import os
import sys
import textwrap
from collections.abc import Sequence

from experiments.run import ending, interrupts, streams

if __name__ == "__main__":
    # Before the imports that take time. A Ctrl-C in the first 50 ms, in which Python
    # itself starts, is out of reach.
    streams.prepare()  # first, since a pipe would take the number of a closed stream
    interrupts.watch()

from rich.console import Console

from experiments.cli.bench import Bench
from experiments.cli.command import PROGRAM, Command, ConfigCommand
from experiments.cli.demo import Demo
from experiments.cli.diagnose import Diagnose
from experiments.cli.evaluate import Evaluate
from experiments.cli.export import Export
from experiments.cli.lab import Lab
from experiments.cli.launch import Launch
from experiments.cli.plan import Plan
from experiments.cli.predict import Predict
from experiments.cli.report import Report
from experiments.cli.study import Study
from experiments.cli.train import Train
from experiments.config.loading import known
from experiments.errors import UserError, of_system, printable, shortage

COMMANDS: dict[str, type[Command]] = {
    "train": Train,
    "report": Report,
    "evaluate": Evaluate,
    "predict": Predict,
    "diagnose": Diagnose,
    "export": Export,
    "launch": Launch,
    "plan": Plan,
    "study": Study,
    "lab": Lab,
    "bench": Bench,
    "demo": Demo,
}
HELP = ("-h", "--help")
EXAMPLES = (
    "train digits_dense",
    "train digits_conv --norm.kind none --seed 1",
    "train digits_dense --optimizer.learning-rate 0.01",
    "train digits_conv --parallel.num-devices 4",
    "predict runs/digits_conv photo.png",
    "plan imagenet_resnet50 --hardware v5e:4x4",
    "study learning_rate",
    "bench bench_layer --rounds 50",
)


def help_text() -> str:
    """Returns the help: the commands, examples, and the configs."""
    lines = [f"usage: {PROGRAM} COMMAND ...", ""]
    for name, command in COMMANDS.items():
        first, _, _ = (inspect.getdoc(command) or "").partition("\n\n")
        text = textwrap.fill(" ".join(first.split()), 82)
        lines += [f"  {name} {command.usage}", textwrap.indent(text, "      ")]
    lines += ["", "examples:", *(f"  {PROGRAM} {example}" for example in EXAMPLES)]
    configs = [f"  {typed}: {line}" for typed, (_, line) in known().items()]
    more = f"`{PROGRAM} COMMAND --help` says more."
    return "\n".join([*lines, "", more, "", "configs:", *configs])


def _print_error(error: Exception) -> None:
    """Prints one line, whatever is in the names of files."""
    print(f"error: {printable(str(error))}", file=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """Runs a command and returns the exit status."""
    console = Console(emoji=False)  # `:cat:` in the name of a file stays what it is
    name, *rest = arguments or ["--help"]
    try:
        needs_more = issubclass(COMMANDS.get(name, Command), ConfigCommand | Launch)
        if name in HELP or (needs_more and rest[:1] and rest[0] in HELP):
            console.print(help_text(), markup=False, highlight=False, soft_wrap=True)
            return 0
        if name not in COMMANDS:
            raise UserError(
                f"there is no command `{name}`; there are: {', '.join(COMMANDS)}. See "
                "--help."
            )
        command = COMMANDS[name].parse(name, rest)
        # In the C locale Python holds other letters of a path as bytes.
        line = os.fsencode(" ".join([PROGRAM, *arguments])).decode(errors="replace")
        return command.run(console, line) or 0
    except UserError as error:
        _print_error(error)
    except OSError as error:
        _print_error(of_system(error))
    except Exception as error:
        if (shown := shortage(error)) is None:
            raise
        _print_error(shown)
    return 2


if __name__ == "__main__":
    ending.prepare()
    try:
        status = main(sys.argv[1:])
    except SystemExit as ended:  # tyro's answer to --help and to a typo
        status = ended.code if isinstance(ended.code, int) else 0
    ending.leave(status)
