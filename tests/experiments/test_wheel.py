# SPDX-License-Identifier: Apache-2.0
"""What `pip install jaxbn[experiments]` gives: a program that runs in any folder."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

from tests.experiments.commands import ROOT

pytestmark = pytest.mark.processes
FEW = ("--train.num-steps", "5")
TINY = ("--shape", "4", "4", "4", "2", "--rounds", "1")


def call(*command, cwd, **kwargs):
    """Runs a program that knows nothing of the checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, timeout=240, text=True,
        capture_output=True, **kwargs,
    )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of programs into which the wheel is installed, made from the sdist."""
    place = tmp_path_factory.mktemp("installed")
    build = (sys.executable, "-m", "hatchling", "build", "-d", place)
    call(*build, "-t", "sdist", cwd=ROOT, check=True)
    (sdist,) = place.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        packed.extractall(place, filter="data")
    source = place / sdist.name.removesuffix(".tar.gz")
    call(*build, "-t", "wheel", cwd=source, check=True)
    (wheel,) = place.glob("*.whl")
    venv.create(place / "env", with_pip=True)
    python = place / "env/bin/python"
    install = ("-m", "pip", "install", "--no-deps", "--no-index", "--quiet", wheel)
    call(python, *install, cwd=place, check=True)
    return python.parent


@pytest.fixture(scope="module")
def program(installed):
    """The program, with the packages that it needs.

    They are those of this environment; a path in a `.pth` brings no editable install.
    """
    paths = sysconfig.get_paths()
    (own,) = installed.parent.glob("lib/python*/site-packages")
    (own / "others.pth").write_text("\n".join({paths["purelib"], paths["platlib"]}))
    return installed / "jaxbn-experiments"


@pytest.fixture
def empty(tmp_path):
    """An empty folder but for a package of the user, which happens to have our name."""
    (tmp_path / "experiments").mkdir()
    for name in ("__init__", "__main__"):
        (tmp_path / f"experiments/{name}.py").write_text("raise SystemExit('decoy')")
    return tmp_path


def test_without_the_extra_the_program_names_it(installed, tmp_path):
    (own,) = installed.parent.glob("lib/python*/site-packages")
    (own / "others.pth").unlink(missing_ok=True)
    result = call(installed / "jaxbn-experiments", "--help", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line == (
        "error: this program needs `rich`, which is not installed: pip install "
        "'jaxbn[experiments]'."
    )


def test_it_takes_no_name_of_the_users(program, tmp_path):
    for name in ("experiments", "configs"):
        result = call(program.parent / "python", "-c", f"import {name}", cwd=tmp_path)
        assert "ModuleNotFoundError" in result.stderr
    where = "import jaxbn_experiments; print(jaxbn_experiments.__file__)"
    result = call(program.parent / "python", "-c", where, cwd=tmp_path, check=True)
    assert Path(result.stdout.strip()).is_relative_to(program.parents[1])


def test_help_names_configs_that_can_be_typed(program, empty):
    result = call(program, "--help", cwd=empty, check=True)
    assert result.stdout.startswith("usage: jaxbn-experiments COMMAND")
    assert "python -m experiments" not in result.stdout
    _, configs = result.stdout.split("\nconfigs:\n")
    names = [line.split(":")[0].strip() for line in configs.splitlines()]
    assert {"digits_dense", "learning_rate", "bench_layer"} < set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "start", [("train",), ("launch", "--num-processes", "2", "train")], ids=len
)
def test_trains_by_name(program, empty, start):
    result = call(program, *start, "digits_dense", *FEW, cwd=empty)
    assert result.returncode == 0, result.stderr
    assert "step 5: loss" in result.stdout
    assert (empty / "runs/digits_dense/report.html").is_file()


def test_the_timed_process_is_found(program, empty):
    result = call(program, "bench", "bench_layer", *TINY, cwd=empty)
    assert result.returncode == 0, result.stderr
    assert (empty / "runs/bench_layer/bench.json").is_file()
