# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a config file, and the line that says so."""

import pytest

from experiments.config import ExperimentConfig
from experiments.config.loading import available, load
from experiments.errors import UserError

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
    with pytest.raises(UserError, match="is not a file; there are: configs/bench"):
        load(tmp_path / "no.py", ExperimentConfig)


def test_lists_configs_with_their_first_lines(tmp_path):
    (tmp_path / "b.py").write_text('"""Two.\n\nMore."""\n')
    (tmp_path / "a.py").write_text("(\n")
    assert [line for _, line in available(tmp_path)] == ["(does not parse)", "Two."]
