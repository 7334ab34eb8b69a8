# SPDX-License-Identifier: Apache-2.0
"""Weights as safetensors, and as the start of another run."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from safetensors import safe_open
from safetensors.flax import load_file
from safetensors.numpy import save_file

from experiments.config import ExperimentConfig
from experiments.data import digits
from experiments.errors import UserError
from experiments.models import make_model
from experiments.run.metrics import read_metrics
from experiments.train import saved
from experiments.train.optimizers import make_optimizer
from experiments.train.steps import Task, init_state, variables_of
from experiments.train.weights import initial_weights
from tests.experiments.commands import one_line_error, run_here
from tests.experiments.test_evaluate import trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("export") / "run")


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_flax_reads_it_without_jaxbn(tmp_path, folder):
    path = tmp_path / "new" / "w.safetensors"
    result = run_here("export", folder, "--checkpoint", "latest", "--output", path)
    assert result.returncode == 0, result.stderr
    run = saved.load(folder, "latest")
    variables = unflatten_dict(load_file(path), sep=".")
    assert_equal(variables, run.variables)
    assert run_here("export", folder, "--checkpoint", "20").returncode == 0
    assert (folder / "20.safetensors").is_file()
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        assert "params.Dense_0.kernel" in file.keys()  # noqa: SIM118
    assert json.loads(metadata["config"])["name"] == "digits_dense"
    assert metadata["step"] == "40" and metadata["test_accuracy"] == str(run.accuracy)
    assert json.loads(metadata["class_names"]) == list("0123456789")
    assert json.loads(metadata["image_shape"]) == [8, 8, 1]


def test_train_leaves_its_best(folder):
    held = unflatten_dict(load_file(folder / "best.safetensors"), sep=".")
    assert_equal(held, saved.load(folder).variables)


def fresh(num_classes=10, average_decay=None, **fields):
    config = ExperimentConfig(name="a", **fields)
    model = make_model(config, num_classes)
    optimizer = make_optimizer(config.optimizer, 10)
    task = Task(model, optimizer, average_decay=average_decay)
    return init_state(task, digits.load().test.image[:2], 1)


def test_a_run_starts_with_the_weights_of_another(folder):
    like, run = fresh(average_decay=0.9), saved.load(folder)
    for source in (folder, folder / "best.safetensors"):
        state, text = initial_weights(source, like)
        assert_equal(variables_of(state), run.variables)
        assert_equal(state.average, run.state.params)
        for field in ("opt_state", "step", "rng"):
            assert_equal(getattr(state, field), getattr(like, field))
        assert text.startswith("Starting from ") and text.endswith("14 of 14 arrays.")


def test_a_last_layer_of_other_classes_starts_at_random(folder):
    like = fresh(num_classes=3)
    state, text = initial_weights(folder, like)
    assert_equal(state.params["Dense_2"], like.params["Dense_2"])
    assert_equal(state.params["Dense_0"], saved.load(folder).state.params["Dense_0"])
    assert text.endswith(
        "12 of 14 arrays. Dense_2 starts at random, since it has 3 outputs here, 10 "
        "there."
    )


def test_train_starts_with_them_and_resumes_without_their_source(tmp_path, folder):
    """At a rate of nearly 0, the first evaluation is the other run's."""
    source, workdir = tmp_path / "source", tmp_path / "run"
    shutil.copytree(folder, source)

    def train(steps, *more):
        return run_here(
            "train", "configs/digits_dense.py", "--init", source, "--workdir", workdir,
            "--train.num-steps", steps, "--train.eval-every", 1, *more,
            "--optimizer.learning-rate", "1e-12", "--norm.momentum", "0.999999",
        )  # fmt: skip

    result = train(1)
    assert result.returncode == 0, result.stderr
    assert "\nStarting from step 40 of " in result.stdout
    (record,) = read_metrics(workdir / "metrics.jsonl")
    assert record.test_accuracy == saved.load(folder, 40).accuracy
    shutil.rmtree(source)
    result = train(2)
    assert result.returncode == 0, result.stderr
    assert "\nResuming after step 1" in result.stdout
    assert "does not exist" in one_line_error(train(2, "--overwrite"))
    assert read_metrics(workdir / "metrics.jsonl")[-1].step == 2


def test_another_network_is_refused(tmp_path, folder):
    from experiments.config import ModelConfig, NormConfig

    for fields, expected in (
        (
            {"model": ModelConfig(hidden=(128, 32))},
            "params.BatchNorm_1.bias (64,) for (32,)",
        ),
        ({"model": ModelConfig(hidden=(128, 64, 9))}, "it lacks "),
        ({"norm": NormConfig(kind="none")}, "it has also batch_stats.BatchNorm_0"),
    ):
        with pytest.raises(UserError) as raised:
            initial_weights(folder, fresh(**fields))
        text = str(raised.value).replace(
            "batch_stats.BatchNorm_1", "params.BatchNorm_1"
        )
        assert expected in text, raised.value
    path = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match="does not exist"):
        initial_weights(path, fresh())
    path.write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        initial_weights(path, fresh())
    arrays = dict(load_file(folder / "best.safetensors"))
    arrays = {name: np.array(array) for name, array in arrays.items()}
    arrays["params.Dense_0.bias"][0] = np.nan
    save_file(arrays, path)
    with pytest.raises(UserError, match=r"params.Dense_0.bias of .* is not"):
        initial_weights(path, fresh())
    with pytest.raises(UserError, match="is not the folder of a run"):
        initial_weights(tmp_path, fresh())
