# SPDX-License-Identifier: Apache-2.0
"""The command line, as real processes where it matters."""

import json
import os
import pty
import subprocess
import sys

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
        "0.05 there, 0.1 now; train.num_steps is 40 there, 600 now. Name another "
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


def test_a_typo_gets_a_suggestion():
    result = run_here("train", "configs/digits_dense.py", "--norm.momentun", "0.5")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "--norm.momentum" in result.stderr


def test_a_value_out_of_range_is_named():
    result = run("train", "configs/digits_dense.py", "--norm.momentum", "1.5")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "`norm.momentum` must be in [0, 1), got 1.5." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (
            ["train", "configs/digits_dense.py", "--norm.virtual-batch-size", "24"],
            "`norm.virtual_batch_size` must be a divisor of data.batch_size, 64, got",
        ),
        (["train"], "`train` takes a config file first; see --help."),
        (["train", "no.py"], "config `no.py` is not a file; there are: configs/"),
        (
            ["trian"],
            "there is no command `trian`; there are: train, report, launch, study,",
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
    with pytest.raises(SystemExit):
        main(["study", "configs/studies/adaptation.py", "--title", "a"])


def test_no_room_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run"
    result = run_here("train", "configs/digits_dense.py", "--workdir", folder)
    line = one_line_error(result)
    assert "Not a directory" in line and str(folder) in line


def test_a_terminal_shows_live_progress(tmp_path):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "train", "configs/digits_dense.py", "--workdir",
         str(tmp_path / "run"), "--train.num-steps", "200"],
        cwd=ROOT, stdout=follower, stderr=follower, env={**os.environ, "TERM": "xterm"},
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
    assert b"\x1b[" in seen and b"200/200" in seen
