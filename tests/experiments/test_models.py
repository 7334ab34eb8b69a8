# SPDX-License-Identifier: Apache-2.0
"""The networks are those that the configs say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import (
    ExperimentConfig,
    ModelConfig,
    NormConfig,
    OptimizerConfig,
    ParallelConfig,
    TrainConfig,
)
from experiments.models import make_model as make
from experiments.train.loop import train

X = jnp.ones((4, 8, 8, 1))


def make_model(model, norm, num_classes):
    return make(ExperimentConfig(name="a", model=model, norm=norm), num_classes)


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), X.shape)


def shapes(name, kind):
    model = make_model(ModelConfig(name=name), NormConfig(kind=kind), 10)
    variables = model.init(jax.random.key(0), X, train=True)
    kernels = {
        k: v["kernel"].shape for k, v in variables["params"].items() if "kernel" in v
    }
    stats = jax.tree.map(jnp.shape, variables.get("batch_stats", {}))
    return list(kernels.values()), [s["mean"] for s in stats.values()]


@pytest.mark.parametrize("kind", ["batch", "none"])
def test_dense(kind):
    kernels, stats = shapes("dense", kind)
    assert kernels == [(64, 128), (128, 64), (64, 10)]
    assert stats == ([(128,), (64,)] if kind == "batch" else [])


@pytest.mark.parametrize("kind", ["batch", "none"])
def test_conv(kind):
    kernels, stats = shapes("conv", kind)
    assert kernels == [(3, 3, 1, 32), (2048, 10)]
    assert stats == ([(32,)] if kind == "batch" else [])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gru", "batch"), ("gru", "layer"), ("gru", "none"), ("lstm", "batch")],
)
def test_recurrent(name, kind, x):
    """It learns the digits, and keeps statistics in both places."""
    loop = TrainConfig(num_steps=60, eval_every=60, log_every=20)
    config = ExperimentConfig(
        name="a",
        model=ModelConfig(name=name),
        norm=NormConfig(kind=kind),
        optimizer=OptimizerConfig(name="adam", learning_rate=0.01),
        train=loop,
    )
    records = list(train(config))
    assert records[-1].test_accuracy > 0.8
    model = make(config, 10)
    stats = model.init(jax.random.key(0), x, train=True).get("batch_stats", {})
    assert [s["mean"].shape for s in stats.values()] == [(64,)] * 2 * (kind == "batch")


@pytest.mark.parametrize("name", ["gru", "lstm", "step_gru"])
def test_recurrent_on_devices(name):
    """Every mode gives the same numbers; scans start from a state of each shard."""
    losses = []
    for mode in ("jit", "shard_map", "pmap") if name == "gru" else ("jit", "shard_map"):
        config = ExperimentConfig(
            name="a",
            model=ModelConfig(name=name),
            parallel=ParallelConfig(mode=mode, num_devices=2),
            train=TrainConfig(num_steps=4, eval_every=4, log_every=2),
        )
        losses.append([r.loss for r in train(config)])
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-4)


@pytest.mark.parametrize("name", ["plain", "step_gru"])
def test_noise_is_drawn_within_scans(name, x):
    model = make_model(ModelConfig(name=name), NormConfig(noise=1.0), 10)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = model.init(keys, x, train=True)

    def logits(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, x, train=True, mutable=True, rngs=rngs)[0]

    assert jnp.array_equal(logits(2), logits(2))
    assert not jnp.allclose(logits(2), logits(3))
    model.apply(variables, x, train=False)  # draws nothing


@pytest.mark.parametrize("kind", ["renorm", "group", "layer", "instance"])
@pytest.mark.parametrize("name", ["dense", "conv"])
def test_other_norms(name, kind, x):
    """Renorm has statistics; the others do the same in training and inference."""
    model = make_model(ModelConfig(name=name), NormConfig(kind=kind), 10)
    variables = model.init(jax.random.key(0), x, train=True)
    assert ("batch_stats" in variables) == (kind == "renorm")
    trained, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    evaluated = model.apply(variables, x, train=False)
    assert jnp.array_equal(trained, evaluated) == (kind != "renorm")
    names = {"renorm": "BatchRenorm_0", "layer": "LayerNorm_0"}
    assert names.get(kind, "GroupNorm_0") in variables["params"]


def test_the_norm_gets_its_settings():
    config = NormConfig(momentum=0.0, epsilon=3.0, virtual_batch_size=2)
    model = make_model(ModelConfig(name="dense"), config, 10)
    x = jax.random.normal(jax.random.key(1), X.shape)
    variables = model.init(jax.random.key(0), x, train=True)
    _, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
    first = jax.tree.leaves(updates["batch_stats"])[1]
    hidden = x.reshape(4, -1) @ variables["params"]["Dense_0"]["kernel"]
    assert jnp.allclose(first, hidden.var(0), rtol=1e-3)  # momentum 0
    (norm,) = model.bind(variables).norm.args
    assert norm.keywords == {
        "momentum": 0.0,
        "epsilon": 3.0,
        "virtual_batch_size": 2,
        "debias": False,
        "axis_name": None,
        "unbiased": False,
        "use_scale": True,
        "use_bias": True,
    }
