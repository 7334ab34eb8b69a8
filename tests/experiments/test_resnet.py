# SPDX-License-Identifier: Apache-2.0
"""Residual networks: sizes as published, PyTorch's names, and they learn."""

import functools

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
from experiments.models import make_model
from experiments.train.loop import train
from jaxbn.convert import from_torch, to_torch

pytestmark = pytest.mark.long

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


def test_stems():
    small, large = (shapes("resnet18", size)["params"]["conv1"] for size in (32, 224))
    assert small["kernel"].shape == (3, 3, 3, 64)
    assert large["kernel"].shape == (7, 7, 3, 64)


def test_width():
    config = ExperimentConfig(name="a", model=ModelConfig(name="resnet18", width=8))
    model = make_model(config, 10)
    x = jax.ShapeDtypeStruct((2, 14, 14, 1), jnp.float32)
    init = functools.partial(model.init, jax.random.key(0), train=True)
    params = jax.eval_shape(init, x)["params"]
    assert params["conv1"]["kernel"].shape == (3, 3, 1, 8)
    assert params["fc"]["kernel"].shape == (64, 10)


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


def torchvision_names(blocks, convolutions):
    """The norms and convolutions of torchvision's networks, in its order."""
    for stage, number in enumerate(blocks, 1):
        for block in range(number):
            place = f"layer{stage}.{block}"
            for k in range(1, convolutions + 1):
                yield f"{place}.conv{k}", f"{place}.bn{k}"
            if block == 0 and (stage > 1 or convolutions == 3):
                yield f"{place}.downsample.0", f"{place}.downsample.1"


@pytest.mark.parametrize(
    ("name", "blocks", "convolutions"),
    [("resnet18", (2, 2, 2, 2), 2), ("resnet50", (3, 4, 6, 3), 3)],
)
def test_the_library_reads_the_weights_of_torchvision(name, blocks, convolutions, rng):
    """By the order, and without names: each number must arrive where its name says."""
    like = shapes(name, 16, num_classes=10)
    where = {}  # in which block, and under which name there
    for names in [("conv1", "bn1"), *torchvision_names(blocks, convolutions)]:
        for theirs, kind in zip(names, ("conv", "bn"), strict=True):
            *block, layer = theirs.replace("downsample.", "downsample").split(".")
            layer = f"downsample_{kind}" if "downsample" in layer else layer
            where[theirs] = "_".join(block), layer
    held = {}

    def at(collection, place):
        tree = like[collection]
        return (tree[place[0]] if place[0] else tree)[place[1]]

    for theirs, place in where.items():
        if "kernel" in at("params", place):
            *size, inputs, outputs = at("params", place)["kernel"].shape
            held[f"{theirs}.weight"] = rng.random((outputs, inputs, *size))
            continue
        features = at("params", place)["scale"].shape
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            held[f"{theirs}.{leaf}"] = rng.random(features)
        held[f"{theirs}.num_batches_tracked"] = np.int64(3)
    held["fc.weight"] = rng.random(like["params"]["fc"]["kernel"].shape[::-1])
    held["fc.bias"] = rng.random(10)
    held = {key: value.astype(np.float32) if value.ndim else value
            for key, value in held.items()}  # fmt: skip

    def init(key):
        return make(name).init(key, jnp.ones((2, 16, 16, 3)), train=True)

    new = from_torch(init, held)
    assert jax.tree.structure(new) == jax.tree.structure(like)
    like = new
    for theirs, place in where.items():
        if "kernel" in at("params", place):
            kernel = np.transpose(at("params", place)["kernel"], (3, 2, 0, 1))
            np.testing.assert_array_equal(kernel, held[f"{theirs}.weight"])
        else:
            var = at("batch_stats", place)["var"]
            np.testing.assert_array_equal(var, held[f"{theirs}.running_var"])
    back = to_torch(init, held, variables=new)
    assert back.keys() == held.keys()
    for key, value in held.items():
        np.testing.assert_array_equal(back[key], value)
    del held["fc.bias"]
    with pytest.raises(ValueError, match=r"for \{'fc': \(\('bias', \(10,\)\)"):
        from_torch(init, held)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_learns(dtype):
    """On digits, with schedule, weight decay and smoothing."""
    config = ExperimentConfig(
        name="a",
        data=DataConfig(batch_size=16, num_train=1280),  # no ragged batch to compile
        model=ModelConfig(name="resnet18", width=16),
        optimizer=OptimizerConfig(
            name="momentum",
            learning_rate=0.02,
            schedule="cosine",
            warmup_steps=2,
            weight_decay=1e-4,
        ),
        train=TrainConfig(
            num_steps=36, eval_every=36, log_every=6, label_smoothing=0.1, dtype=dtype
        ),
    )
    records = list(train(config))
    assert records[-1].loss < 0.7 * records[0].loss
