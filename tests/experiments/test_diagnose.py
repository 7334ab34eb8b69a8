# SPDX-License-Identifier: Apache-2.0
"""`diagnose RUN`: healthy runs have no alarm, a planted fault has one."""

import re
import shutil

import pytest

from experiments.train import diagnosis, saved
from tests.experiments.commands import one_line_error, run_here
from tests.experiments.test_evaluate import files_of, trained

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("diagnose") / "run", *LONGER)


LONGER = ("--train.num-steps", "80", "--train.checkpoint-every", "40")


@pytest.mark.parametrize("more", [
    ("--seed", "1"),
    ("--seed", "2", "--optimizer.name", "adam", "--optimizer.learning-rate", "0.003"),
    ("--seed", "3", "--data.batch-size", "512"),
    ("--data.num-empty", "10", "--norm.kind", "renorm", "--norm.debias"),
    ("--model.name", "conv", "--model.hidden", "4", "8", "--train.dtype", "bfloat16",
     "--norm.virtual-batch-size", "16", "--norm.unbiased", "--model.dropout", "0.2"),
    ("--model.name", "step_gru", "--optimizer.name", "momentum",
     "--optimizer.weight-decay", "1e-4"),
])  # fmt: skip
def test_healthy_runs_have_no_alarm(tmp_path, more):
    folder = trained(tmp_path / "run", *LONGER, *more)
    found = diagnosis.diagnose(saved.load(folder, "latest"), 8)
    assert not found.alarms, str(found)
    assert not found.skipped


def test_the_page_and_the_table(tmp_path, folder):
    before = files_of(folder)
    page = tmp_path / "new" / "page.html"
    which = ("--checkpoint", "latest", "--output", page)
    result = run_here("diagnose", folder, *which)
    assert result.returncode == 0, result
    assert "2 batch norms, 16 batches" in result.stdout and "no alarm" in result.stdout
    text = page.read_text("utf-8")
    assert text.count("<svg") == 3 and "BatchNorm_0" in text
    assert files_of(folder) == before
    assert run_here("diagnose", folder, "--num-batches", "4").returncode == 0
    assert (folder / "diagnosis.html").is_file()


def test_a_checkpoint_that_is_too_early_is_found(tmp_path):
    folder = trained(tmp_path / "run", "--norm.momentum", "0.99")
    result = run_here("diagnose", folder)
    assert result.returncode == 1, result
    assert re.search(r"warning.*momentum", result.stdout)


def test_mistakes_are_one_line(tmp_path, folder):
    assert "is not the folder of a run" in one_line_error(
        run_here("diagnose", tmp_path)
    )
    line = one_line_error(run_here("diagnose", folder, "--num-batches", "1"))
    assert line == "error: `num_batches` must be >= 2, got 1."
    line = one_line_error(run_here("diagnose", folder, "--num-batches", 2**31))
    assert line == "error: `num_batches` must be < 2147483648, got 2147483648."
    other = trained(tmp_path / "run", "--norm.kind", "layer")
    line = one_line_error(run_here("diagnose", other))
    assert line == (
        f"error: `{other}` must have batch norms (norm.kind batch or renorm), got "
        "norm.kind layer."
    )
    shutil.rmtree(other)
