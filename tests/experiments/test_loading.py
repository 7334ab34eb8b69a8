# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a config file, and the line that says so."""

import sys
from pathlib import Path

import pytest

from experiments.config import ExperimentConfig
from experiments.config.loading import available, find, load
from experiments.errors import UserError
from tests.experiments.commands import one_line_error, run_here

FILES = {
    "def get_config(:\n": "does not parse: line 1: ",
    "x = 1\n": "has no function `get_config()`; it must return an `ExperimentConfig`.",
    "get_config = 3\n": "has no function `get_config()`; it must return an",
    "def get_config():\n  return 3\n": "must return an `ExperimentConfig`, got int.",
    "import no_such_module\n": "fails: ModuleNotFoundError: No module named",
    "from experiments.config import ExperimentConfig\n"
    "def get_config():\n"
    "  return ExperimentConfig(name='a', seed=-1)\n": "fails: ValueError: `seed` must "
    "be in [0, 2**32), got -1.",
    "import sys\nsys.exit(0)\n": "ends the program by sys.exit(0); it must return",
    "def get_config():\n  raise SystemError\n": "fails: SystemError: no message.",
}


@pytest.mark.parametrize(("text", "answer"), FILES.items(), ids=FILES.values())
def test_answer(tmp_path, text, answer):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        load(path, ExperimentConfig)
    message = str(raised.value)
    assert message.startswith(f"config `{path}`") and answer in message
    assert "\n" not in message


def test_missing(tmp_path):
    with pytest.raises(UserError, match="nor the name of a config; there are: conf"):
        find(str(tmp_path / "no.py"))
    with pytest.raises(UserError, match="the closest name is `digits_dense`"):
        find("digits_dens")
    with pytest.raises(UserError, match="is a folder"):
        find(str(tmp_path))
    assert find("digits_dense").name == find("configs/digits_dense.py").name


def test_own_configs_come_first_and_names_may_be_ambiguous(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("digits_dense").is_absolute()
    for folder in ("configs/a", "configs/b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "digits_dense.py").write_text("def get_config(): pass\n")
    assert find("a/digits_dense") == Path("configs/a/digits_dense.py")
    with pytest.raises(UserError, match=r"may be any of configs/a/digits_dense.py, co"):
        find("digits_dense")


def test_a_config_imports_what_is_next_to_it(tmp_path):
    text = (
        "import common\nfrom experiments.config import ExperimentConfig\n"
        "def get_config():\n  return ExperimentConfig(name=common.NAME)\n"
    )
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "common.py").write_text(f"NAME = {name!r}\n")
        (tmp_path / name / "config.py").write_text(text)
        assert load(tmp_path / name / "config.py", ExperimentConfig).name == name
    assert "common" not in sys.modules
    (tmp_path / "first/common.py").write_text("x = (\n")
    with pytest.raises(
        UserError, match=r"common.py`, which it imports, does not parse"
    ):
        load(tmp_path / "first/config.py", ExperimentConfig)


def test_an_interrupt_in_a_config_stays_one(tmp_path):
    (tmp_path / "config.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path / "config.py", ExperimentConfig)


CONFIG = "from experiments.config import *\ndef get_config(): return ExperimentConfig"
THROUGH_THE_COMMAND = {
    "(name='a', data=DataConfig(batch_size=64.0))": "`data.batch_size` must be a whole "
    "number, got 64.0; write 64.",
    "(name='a', model=ModelConfig(hidden=[8]))": "`model.hidden` must be None or a "
    "tuple of whole numbers, got [8]; write (8,).",
    "(name='a', data={})": "`data` must be a DataConfig, got {}; write DataConfig(",
    "(name='a', seed=True)": "`seed` must be a whole number, got True.",
    "(name='a', norm=NormConfig(kind='bach'))": "`norm.kind` must be batch, renorm, "
    "group, layer, instance or none, got 'bach'; the closest name is `batch`.",
    "(name='a', norm=NormConfig(kind='group', group_size=24))": "`norm.group_size` "
    "must be a divisor of the channels, 128 in a layer of this network, got 24.",
    "(name='a', data=DataConfig(batch_size=1))": "`data.batch_size` must be >= 2 with "
    "norm.kind batch and model.name dense, got 1; one value has no variance.",
    "(name='a', data=DataConfig(num_empty=63))": "`data.num_empty` must be less than "
    "data.batch_size - 1, 63, with norm.kind batch and model.name dense, got 63",
}


@pytest.mark.parametrize(("text", "answer"), THROUGH_THE_COMMAND.items())
def test_the_command_says_what_is_wrong(tmp_path, text, answer):
    path = tmp_path / "config.py"
    path.write_text(CONFIG + text)
    assert answer in one_line_error(
        run_here("train", path, "--workdir", tmp_path / "r")
    )


def test_lists_configs_with_their_first_lines(tmp_path):
    text = '"""Two.\n\nMore."""\ndef get_config(): pass\n'
    (tmp_path / "b.py").write_text(text)
    (tmp_path / "common.py").write_text("x = 1\n")
    (tmp_path / "a.py").write_text("(\n")
    assert [line for _, line in available(tmp_path)] == ["(does not parse)", "Two."]
