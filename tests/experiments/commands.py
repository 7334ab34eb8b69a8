# SPDX-License-Identifier: Apache-2.0
"""The command line: as a process of its own, or in this one, which imports nothing."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import jax

from experiments.__main__ import main

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "experiments"]


def run(*arguments):
    """Runs the command line in a process of its own."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_here(*arguments):
    """The same in this process, which has imported all that it needs."""
    arguments = list(map(str, arguments))
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        try:
            status = main(arguments)
        except SystemExit as ended:  # tyro's answer to a typo and to --help
            status = ended.code or 0
    return subprocess.CompletedProcess(
        arguments, status, out.getvalue(), err.getvalue()
    )


def one_line_error(result):
    """The line that a mistake is answered with."""
    assert result.returncode == 2, result
    assert "Traceback" not in result.stderr + result.stdout
    (line,) = result.stderr.splitlines()
    return line
