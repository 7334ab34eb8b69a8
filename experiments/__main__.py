# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m experiments COMMAND ...`."""

import inspect
import sys
import textwrap
from collections.abc import Sequence

from rich.console import Console

from experiments.cli.bench import Bench
from experiments.cli.command import PROGRAM, Command, ConfigCommand
from experiments.cli.demo import Demo
from experiments.cli.lab import Lab
from experiments.cli.launch import Launch
from experiments.cli.report import Report
from experiments.cli.study import Study
from experiments.cli.train import Train
from experiments.config.loading import available
from experiments.errors import UserError

COMMANDS: dict[str, type[Command]] = {
    "train": Train,
    "report": Report,
    "launch": Launch,
    "study": Study,
    "lab": Lab,
    "bench": Bench,
    "demo": Demo,
}
HELP = ("-h", "--help")
EXAMPLES = (
    "train configs/digits_dense.py",
    "train configs/digits_conv.py --norm.kind none --seed 1",
    "train configs/digits_dense.py --optimizer.learning-rate 0.01",
    "train configs/digits_conv.py --parallel.num-devices 4",
    "study configs/studies/learning_rate.py",
    "bench configs/bench_layer.py --rounds 50",
)


def help_text() -> str:
    """Returns the help: the commands, examples, and the configs."""
    lines = [f"usage: {PROGRAM} COMMAND ...", ""]
    for name, command in COMMANDS.items():
        text = textwrap.fill(" ".join((inspect.getdoc(command) or "").split()), 82)
        lines += [f"  {name} {command.usage}", textwrap.indent(text, "      ")]
    lines += ["", "examples:", *(f"  {PROGRAM} {example}" for example in EXAMPLES)]
    configs = [f"  {path}: {line}" for path, line in available()]
    return "\n".join([*lines, "", "configs:", *(configs or ["  (none in configs/)"])])


def main(arguments: Sequence[str]) -> int:
    """Runs a command and returns the exit status."""
    console = Console()
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
        return command.run(console, " ".join([PROGRAM, *arguments])) or 0
    except KeyboardInterrupt:
        return 130
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
