# SPDX-License-Identifier: Apache-2.0
"""Residual networks: sizes as published, PyTorch's names, and they learn."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    NormConfig,
    OptimizerConfig,
    TrainConfig,
)
from experiments.errors import UserError
from experiments.models import make_model
from experiments.models.from_torch import from_torch, torch_name
from experiments.train.loop import train

# Parameters of torchvision's networks of these names, 1,000 classes.
SIZES = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
}


def make(name, num_classes=10, **norm):
    config = ExperimentConfig(
        name="a", model=ModelConfig(name=name), norm=NormConfig(**norm)
    )
    return make_model(config, num_classes)


def shapes(name, size, num_classes=1000):
    model = make(name, num_classes)
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=True), x)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_pytorch(name):
    params = shapes(name, 224)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == SIZES[name]


def test_names_are_those_of_pytorch():
    flat = jax.tree.leaves_with_path(shapes("resnet50", 224))
    names = {torch_name(tuple(key.key for key in path)) for path, _ in flat}
    assert {
        "conv1.weight", "bn1.running_var", "layer1.0.conv3.weight",
        "layer1.0.downsample.0.weight", "layer1.0.downsample.1.running_mean",
        "layer4.2.bn3.bias", "fc.weight", "fc.bias",
    } <= names  # fmt: skip
    assert len(names) == len(flat) == 267  # and 53 num_batches_tracked


def test_stems():
    small, large = (shapes("resnet18", size)["params"]["conv1"] for size in (32, 224))
    assert small["kernel"].shape == (3, 3, 3, 64)
    assert large["kernel"].shape == (7, 7, 3, 64)


def test_blocks_start_as_what_is_added_to():
    model = make("resnet18")

    @jax.jit  # which leaves out what is not returned
    def scales():
        x = jnp.ones((2, 16, 16, 3))
        block = model.init(jax.random.key(1), x, train=True)["params"]["layer1_0"]
        return block["bn1"]["scale"], block["bn2"]["scale"]

    first, last = scales()
    assert np.all(first == 1) and not np.any(last)


@pytest.mark.parametrize("kind", ["renorm", "group", "layer", "none"])
def test_every_norm_fits(kind):
    model = make("resnet18", kind=kind)
    x = jnp.ones((2, 16, 16, 3))
    out = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=True)[0], x
    )
    assert out.shape == (2, 10)


def test_from_torch_and_what_does_not_fit(rng):
    like = shapes("resnet18", 16, num_classes=10)
    flat = jax.tree.leaves_with_path(like)
    held = {}
    for path, leaf in flat:
        value = rng.random(leaf.shape).astype(np.float32)
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif value.ndim == 2:
            value = value.T
        held[torch_name(tuple(key.key for key in path))] = value
    held["bn1.num_batches_tracked"] = np.int64(3)
    new = from_torch(like, pickle.loads(pickle.dumps(held)))
    assert jax.tree.structure(new) == jax.tree.structure(like)
    np.testing.assert_array_equal(new["params"]["fc"]["kernel"], held["fc.weight"].T)
    np.testing.assert_array_equal(
        new["params"]["conv1"]["kernel"][1, 2, 0], held["conv1.weight"][:, 0, 1, 2]
    )
    np.testing.assert_array_equal(
        new["batch_stats"]["layer2_0"]["downsample_bn"]["var"],
        held["layer2.0.downsample.1.running_var"],
    )
    del held["fc.bias"]
    with pytest.raises(UserError, match=r"\['fc.bias'\] is missing"):
        from_torch(like, held)
    held["fc.bias"] = np.zeros(11, np.float32)
    with pytest.raises(UserError, match=r"`fc.bias` must have shape \(10,\) here, got"):
        from_torch(like, held)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_learns(dtype):
    """On digits, with schedule, weight decay and smoothing."""
    config = ExperimentConfig(
        name="a",
        data=DataConfig(batch_size=16, num_train=1280),  # no ragged batch to compile
        model=ModelConfig(name="resnet18"),
        optimizer=OptimizerConfig(
            name="momentum",
            learning_rate=0.02,
            schedule="cosine",
            warmup_steps=2,
            weight_decay=1e-4,
        ),
        train=TrainConfig(
            num_steps=24, eval_every=24, log_every=6, label_smoothing=0.1, dtype=dtype
        ),
    )
    records = list(train(config))
    assert records[-1].loss < 0.7 * records[0].loss
