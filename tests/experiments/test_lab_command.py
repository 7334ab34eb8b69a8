# SPDX-License-Identifier: Apache-2.0
"""`study` and `lab` as people start them: real processes, interrupted, at once."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from tests.experiments.commands import COMMAND, ROOT, run_here

pytestmark = pytest.mark.processes

CONFIG = """
from tests.experiments.test_lab import small_study

def get_config():
    return small_study(name={name!r}, num_seeds={num})
"""


def start(folder, *arguments):
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder, *arguments):
    process = start(folder, *arguments)
    out, error = process.communicate()
    return process.returncode, out, error


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with two studies in configs/studies, where commands are run."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs" / "studies"
    folder.mkdir(parents=True)
    for name, num in (("one", 2), ("two", 10)):
        (folder / f"{name}.py").write_text(CONFIG.format(name=name, num=num))
    return tmp_path


def test_lab_command(place):
    """All studies, one page, one file of verdicts; a second time nothing runs."""
    code, out, error = run(place, "lab")
    assert (code, error) == (0, "")
    assert "one: 8 runs in" in out and "two: 40 runs in" in out
    found = json.loads((place / "runs/lab/verdicts.json").read_text())
    assert [(v["study"], v["seeds"]) for v in found] == [("one", 2), ("two", 10)]
    wanted = {"claim", "rule", "effect", "interval", "seeds", "verdict", "source"}
    assert wanted <= set(found[0])
    page = (place / "runs/lab/report.html").read_text()
    assert page.count("<svg") == 2 and "python -m experiments lab" in page
    assert not re.search(r'(src|href)="http', page.replace('href="https://example', ""))
    again = run_here("lab")
    out = again.stdout
    assert again.returncode == 0 and "one: 0 runs in" in out and "two: 0 runs in" in out


def test_study_command(place):
    arguments = "study", "configs/studies/two.py", "--num-seeds", "1"
    code, out, error = run(place, *arguments)
    assert (code, error) == (0, "")
    assert "undecided" in out and (place / "runs/lab/two/report.html").exists()
    lines = (place / "runs/lab/two/runs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 4 and {"norm", "rate", "seed", "test_accuracy"} <= set(rows[0])
    wrong = run_here("study", "configs/studies/no.py")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    wrong = run_here(*arguments, "--num-seeds", "0")
    assert wrong.returncode == 2
    assert "`num_seeds` must be >= 1, got 0." in wrong.stderr


LONG = """
from experiments.config import changed, values
from tests.experiments.test_lab import BASE, small_study

def get_config():
    rates = tuple(k / 400 for k in range(1, 61))
    axes = {
        "norm": values("norm.kind", ("batch", "none")),
        "rate": values("optimizer.learning_rate", rates),
    }
    base = changed(BASE, {"train.num_steps": 1500, "train.eval_every": 500})
    return small_study(axes, base, name="long", num_seeds=10)
"""


def test_interrupted_it_keeps_finished_runs(place):
    (place / "configs/studies/long.py").write_text(LONG)
    process = start(place, "study", "configs/studies/long.py")
    path = place / "runs/lab/long/runs.jsonl"
    deadline = time.monotonic() + 120
    try:
        while not path.exists() or path.stat().st_size < 2000:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        twice = run_here("study", "configs/studies/long.py")
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "the same command resumes" in out
    assert "Traceback" not in error
    assert twice.returncode == 2 and "is in use by another process" in twice.stderr
    text = path.read_text()
    assert text.endswith("\n") and text.count("\n") % 10 == 0
