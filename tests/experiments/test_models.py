# SPDX-License-Identifier: Apache-2.0
"""The networks are those that the configs say."""

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
    ParallelConfig,
    TrainConfig,
)
from experiments.models import make_model as make
from experiments.train.loop import train

pytestmark = pytest.mark.long

X = jnp.ones((4, 8, 8, 1))
WHOLE = DataConfig(num_train=1280)
"""Batches without a ragged one, for which each step would be compiled again."""


def make_model(model, norm, num_classes):
    return make(ExperimentConfig(name="a", model=model, norm=norm), num_classes)


@functools.partial(jax.jit, static_argnums=0)
def init(model, x, **keys):
    keys = {"params": jax.random.key(0)} | keys
    return model.init(keys, x, train=True)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(model, variables, x, *, train, **rngs):
    """The output, and the collections that are updated in training."""
    mutable = ["batch_stats"] if train else []
    return model.apply(variables, x, train=train, mutable=mutable, rngs=rngs)


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), X.shape)


def shapes(name, kind):
    model = make_model(ModelConfig(name=name), NormConfig(kind=kind), 10)
    variables = jax.eval_shape(lambda: init(model, X))
    kernels = {
        k: v["kernel"].shape for k, v in variables["params"].items() if "kernel" in v
    }
    stats = variables.get("batch_stats", {})
    return list(kernels.values()), [s["mean"].shape for s in stats.values()]


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
        data=WHOLE,
        model=ModelConfig(name=name),
        norm=NormConfig(kind=kind),
        optimizer=OptimizerConfig(name="adam", learning_rate=0.01),
        train=loop,
    )
    records = list(train(config))
    assert records[-1].test_accuracy > 0.8
    model = make(config, 10)
    stats = jax.eval_shape(lambda: init(model, x)).get("batch_stats", {})
    assert [s["mean"].shape for s in stats.values()] == [(64,)] * 2 * (kind == "batch")


@pytest.mark.parametrize("name", ["gru", "lstm", "step_gru"])
def test_recurrent_on_devices(name):
    """Every mode gives the same numbers; scans start from a state of each shard."""
    losses = []
    for mode in ("jit", "pmap" if name == "gru" else "shard_map"):
        config = ExperimentConfig(
            name="a",
            data=WHOLE,
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
    variables = init(model, x, dropout=jax.random.key(1))

    def logits(seed):
        return apply(model, variables, x, train=True, dropout=jax.random.key(seed))[0]

    assert jnp.array_equal(logits(2), logits(2))
    assert not jnp.allclose(logits(2), logits(3))
    apply(model, variables, x, train=False)  # draws nothing


@pytest.mark.parametrize("kind", ["renorm", "group", "layer", "instance"])
@pytest.mark.parametrize("name", ["dense", "conv"])
def test_other_norms(name, kind, x):
    """Renorm has statistics; the others do the same in training and inference."""
    model = make_model(ModelConfig(name=name), NormConfig(kind=kind), 10)
    variables = init(model, x)
    assert ("batch_stats" in variables) == (kind == "renorm")
    trained, _ = apply(model, variables, x, train=True)
    evaluated, _ = apply(model, variables, x, train=False)
    assert jnp.array_equal(trained, evaluated) == (kind != "renorm")
    names = {"renorm": "BatchRenorm_0", "layer": "LayerNorm_0"}
    assert names.get(kind, "GroupNorm_0") in variables["params"]


def test_the_norm_gets_its_settings():
    config = NormConfig(momentum=0.0, epsilon=3.0, virtual_batch_size=2)
    model = make_model(ModelConfig(name="dense"), config, 10)
    x = jax.random.normal(jax.random.key(1), X.shape)
    variables = init(model, x)
    _, updates = apply(model, variables, x, train=True)
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
