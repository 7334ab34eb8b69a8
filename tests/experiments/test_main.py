# SPDX-License-Identifier: Apache-2.0
"""The command line, as real processes where it matters."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from experiments.__main__ import main
from experiments.run.metrics import read_metrics
from tests.experiments.commands import COMMAND, ROOT, one_line_error, run, run_here

pytestmark = pytest.mark.processes


def test_train_with_an_override(tmp_path):
    folder = tmp_path / "run"
    result = run(
        "train", "configs/digits_dense.py", "--workdir", folder,
        "--optimizer.learning-rate", "0.05", "--train.num-steps", "40",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout  # plain lines in a pipe
    assert "step 40: loss" in result.stdout and "report.html" in result.stdout
    config = json.loads((folder / "config.json").read_text())
    assert config["optimizer"]["learning_rate"] == 0.05
    assert read_metrics(folder / "metrics.jsonl")[-1].step == 40
    assert "<svg" in (folder / "report.html").read_text()

    again = run_here("train", "configs/digits_dense.py", "--workdir", folder)
    assert one_line_error(again) == (
        f"error: `{folder}` holds a run of another config: optimizer.learning_rate is "
        "0.05 there, 0.1 now. Name another "
        "folder with --workdir, or replace that run with --overwrite."
    )
    replaced = run_here(
        "train", "configs/digits_conv.py", "--workdir", folder, "--overwrite",
        "--train.num-steps", "5",
    )  # fmt: skip
    assert replaced.returncode == 0, replaced.stderr
    assert json.loads((folder / "config.json").read_text())["name"] == "digits_conv"
    assert read_metrics(folder / "metrics.jsonl")[-1].step == 5


def test_help_lists_every_field():
    result = run_here("train", "configs/digits_dense.py", "--help")
    assert result.returncode == 0
    for flag in (
        "--workdir", "--overwrite", "--name", "--seed", "--data.name",
        "--data.batch-size", "--model.name", "--norm.kind", "--norm.momentum",
        "--norm.epsilon", "--norm.virtual-batch-size", "--optimizer.name",
        "--optimizer.learning-rate",
        "--train.num-steps", "--train.eval-every", "--train.log-every",
    ):  # fmt: skip
        assert flag in result.stdout, flag


TRAIN, SEE = "train configs/digits_dense.py", "; see `python -m experiments {} --help`."
WRONG = {
    "--norm.momentum 1.5": "`norm.momentum` must be in [0, 1), got 1.5.",
    "--seed -1": "`seed` must be in [0, 2**32), got -1.",
    "--norm.momentun 0.5": (
        "unrecognized options: --norm.momentun, 0.5; the closest is "
        f"`--norm.momentum FLOAT`{SEE.format(TRAIN)}"
    ),
    "--norm.momentum high": (
        "--norm.momentum: could not convert string to float: 'high'" + SEE.format(TRAIN)
    ),
    "--norm.momentum": (
        "missing value for argument '--norm.momentum'. Expected 1 values"
        + SEE.format(TRAIN)
    ),
    "--norm.kind x": (
        "invalid choice 'x' for argument '--norm.kind'. Expected one of ('batch', "
        f"'renorm', 'group', 'layer', 'instance', 'none'){SEE.format(TRAIN)}"
    ),
    "--model.hidden a b": (
        "--model.hidden: no type matching {None}|{[INT [INT ...]]} could be "
        f"instantiated from ['a', 'b']{SEE.format(TRAIN)}"
    ),
    "--overwrite=yes": f"unrecognized options: yes{SEE.format(TRAIN)}",
    "--name " + "a" * 300 + " b": f"unrecognized options: b{SEE.format(TRAIN)}",
}


@pytest.mark.parametrize("given", WRONG)
def test_a_wrong_argument_is_one_line(given):
    """As tyro says it, without its box; what our own rules say, as they say it."""
    answer = one_line_error(run_here(*TRAIN.split(), *given.split()))
    assert answer == f"error: {WRONG[given]}"


@pytest.mark.parametrize("command", ["predict", "export", "diagnose"])
def test_a_missing_argument_is_one_line(command):
    line = one_line_error(run_here(command))
    assert line.startswith(f"error: `python -m experiments {command}` takes RUN ")


def test_a_wrong_argument_on_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    line = one_line_error(run_here("export", "a", "b" * 100))
    assert line == f"error: unrecognized options: {'b' * 100}{SEE.format('export')}"
    assert os.environ["COLUMNS"] == "20"


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (
            ["train", "configs/digits_dense.py", "--norm.virtual-batch-size", "24"],
            "`norm.virtual_batch_size` must be a divisor of data.batch_size, 64, got",
        ),
        (["train"], "`train` takes a config file first; see --help."),
        (["train", "no.py"], "config `no.py` is not a file, nor the name of a"),
        (
            ["trian"],
            "there is no command `trian`; there are: train, report, evaluate, ",
        ),
    ],
)
def test_mistakes(arguments, answer, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {answer}")


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["train", "--help"], ["launch", "-h"]]
)
def test_help_names_the_configs(arguments, capsys):
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "configs/digits_dense.py: Handwritten digits" in out
    assert "--norm.kind none" in out


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "configs/digits_dense.py", "--help"], ["bench", "no.py"]],
)
def test_help_and_mistakes_do_not_wait_for_jax(arguments):
    code = (
        "import sys; from experiments.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "found = {'jax', 'flax', 'matplotlib'} & set(sys.modules); assert not found"
    )
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_of_a_study_only_seeds_and_workers_change(capsys):
    with pytest.raises(SystemExit):
        main(["study", "configs/studies/adaptation.py", "--help"])
    out = capsys.readouterr().out
    for flag in ("--num-seeds", "--first-seed", "--num-workers", "--workdir"):
        assert flag in out
    for field in ("title", "variants", "claims", "probe", "figure"):
        assert f"--{field}" not in out and f"{field.upper()}." not in out
    wrong = run_here("study", "configs/studies/adaptation.py", "--title", "a")
    assert "unrecognized options: --title, a; " in one_line_error(wrong)


@pytest.mark.parametrize("below", ["", "run"])
@pytest.mark.parametrize(
    "command",
    ["train configs/digits_dense.py", "study configs/studies/adaptation.py",
     "bench configs/bench_layer.py", "lab", "demo"],
)  # fmt: skip
def test_a_workdir_that_is_a_file(command, below, tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    line = one_line_error(run_here(*command.split(), "--workdir", file / below))
    assert line.startswith("error: `--workdir` must be a folder, got `")
    assert f"`{file}` is a file" in line and file.read_text() == "kept"


def on_a_terminal(folder, columns, *more):
    """What a terminal of this width gets to show, line by line."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*COMMAND, "train", "configs/digits_dense.py", "--workdir", str(folder),
         "--train.num-steps", "200", *more],
        cwd=ROOT, stdin=follower, stdout=follower, stderr=follower,
        env={**environment, "TERM": "xterm"},
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while True:
        try:
            chunk = os.read(leader, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        if not chunk:
            break
        seen += chunk
    assert process.wait(30) == 0, seen
    assert b"\x1b[" in seen
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    return [line.rstrip() for line in re.split(r"[\r\n]+", text)]


@pytest.mark.parametrize(
    ("columns", "name", "shown"),
    [
        (120, "digits_dense", r"00:00 digits_dense: test \d\d\.\d%, loss .*images/s"),
        (80, "digits_dense", r"digits_dense: test \d\d\.\d%, loss .*, .* ms/step$"),
        (80, "a" * 60, r" a{5,}…: test \d\d\.\d%, loss .*, .* ms/step$"),
        (60, "digits_dense", r"digits_dense: test \d\d\.\d%"),
        (40, "digits_dense", r" test \d\d\.\d%|: test \d\d\.\d%"),
        (20, "digits_dense", r"200/200"),
    ],
)
def test_a_terminal_shows_live_progress(tmp_path, columns, name, shown):
    """The test accuracy at any usual width."""
    lines = on_a_terminal(
        tmp_path, columns, "--name", name, "--train.eval-every", "150",
        "--train.log-every", "10",
    )  # fmt: skip
    bars = [line for line in lines if "/200 " in line or line.endswith("/200")]
    assert bars and all(len(line) <= columns for line in bars)
    assert re.search(shown, bars[-1]), bars[-1]
