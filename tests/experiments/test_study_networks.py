# SPDX-License-Identifier: Apache-2.0
"""What the studies change in networks does what it says."""

import jax
import jax.numpy as jnp
import pytest

from experiments.config import ExperimentConfig, ModelConfig, NormConfig
from experiments.models import NETWORKS
from experiments.models import make_model as make
from experiments.models.norms import no_norm

pytestmark = pytest.mark.long


def make_model(model, norm, num_classes):
    return make(ExperimentConfig(name="a", model=model, norm=norm), num_classes)


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (4, 8, 8, 1))


def applied(variables, x, model, norm, **more):
    built = make_model(ModelConfig(**model), NormConfig(**norm), 10)
    return built.apply(variables, x, mutable=["batch_stats"], **more)[0]


def test_placement_and_activation(x):
    model = {"name": "dense", "hidden": (6,), "placement": "after"}
    built = make_model(ModelConfig(**model, activation="tanh"), NormConfig(), 10)
    variables = built.init(jax.random.key(0), x, train=True)
    params = variables["params"]
    hidden = jnp.tanh(x.reshape(4, -1) @ params["Dense_0"]["kernel"])
    hidden = (hidden - hidden.mean(0)) / jnp.sqrt(hidden.var(0) + 1e-5)
    expected = hidden @ params["Dense_1"]["kernel"]
    got = applied(variables, x, model | {"activation": "tanh"}, {}, train=True)
    assert jnp.allclose(got, expected, atol=1e-4)
    before = model | {"activation": "tanh", "placement": "before"}
    assert not jnp.allclose(applied(variables, x, before, {}, train=True), expected)


def test_affine_parts(x):
    for affine, names in (
        ("both", {"scale", "bias"}), ("scale", {"scale"}), ("bias", {"bias"}),
        ("none", set()), ("fixed", set()),
    ):  # fmt: skip
        for kind in ("batch", "renorm") if affine == "fixed" else ("batch", "layer"):
            norm = NormConfig(kind=kind, affine=affine)
            model = make_model(ModelConfig(hidden=(6,)), norm, 10)
            params = model.init(jax.random.key(0), x, train=True)["params"]
            found = {k for p in params.values() if "kernel" not in p for k in p}
            assert found == names
    last = {"name": "dense", "hidden": (6,), "activation": "tanh"}
    none = make_model(ModelConfig(**last), NormConfig(affine="none"), 10)
    variables = none.init(jax.random.key(0), x, train=True)
    full, small = (
        applied(variables, x, last, {"affine": "fixed", "fixed_scale": s}, train=True)
        for s in (1.0, 0.001)
    )
    assert jnp.array_equal(full, applied(variables, x, last, NONE, train=True))
    assert jnp.allclose(small, 0, atol=0.01)


NONE = {"affine": "none"}


def test_noise_is_in_training_only_and_new_at_each_step(x):
    variables = make_model(ModelConfig(), NormConfig(), 10).init(
        jax.random.key(0), x, train=True
    )
    quiet, loud = {}, {"noise": 1.0}
    same = [applied(variables, x, {}, norm, train=False) for norm in (quiet, loud)]
    assert jnp.array_equal(*same)
    drawn = [
        applied(
            variables, x, {}, loud, train=True, rngs={"dropout": jax.random.key(key)}
        )
        for key in (0, 0, 1)
    ]
    assert jnp.array_equal(drawn[0], drawn[1])
    assert not jnp.allclose(drawn[0], drawn[2], atol=0.1)


def test_a_mask_may_be_ignored(x):
    variables = make_model(ModelConfig(), NormConfig(), 10).init(
        jax.random.key(0), x, train=True
    )
    mask = jnp.array([True, True, True, False])
    empty = x.at[3].set(0.0)
    kept, counted = (
        applied(variables, empty, {}, norm, train=True, mask=mask)[:3]
        for norm in ({}, {"ignore_mask": True})
    )
    assert jnp.allclose(kept, applied(variables, x[:3], {}, {}, train=True), atol=1e-4)
    assert jnp.allclose(
        counted, applied(variables, empty, {}, {}, train=True)[:3], atol=1e-5
    )


def test_patches_are_the_convolution(x):
    model = {"name": "conv", "hidden": (5, 3)}
    xla = make_model(ModelConfig(**model), NormConfig(), 10)
    variables = xla.init(jax.random.key(0), x, train=True)
    got = applied(variables, x, model | {"convolution": "patches"}, {}, train=True)
    assert jnp.allclose(got, applied(variables, x, model, {}, train=True), atol=1e-4)


@pytest.mark.parametrize("kind", ["batch", "none"])
def test_plain_is_as_deep_as_it_says(kind, x):
    model = make_model(ModelConfig(name="plain", depth=5), NormConfig(kind=kind), 10)
    variables = model.init(jax.random.key(0), x, train=True)
    params = variables["params"]
    (stacked,) = (
        {a.shape for a in jax.tree.leaves(layer)}
        for name, layer in params.items()
        if name.startswith("Scan")
    )
    assert (4, 32, 32) in stacked
    y, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.shape == (4, 10)
    means = [m.shape for m in jax.tree.leaves(updates.get("batch_stats", {}))]
    expected = [(32,)] * 2 + [(4, 32)] * 2 if kind == "batch" else []
    assert sorted(means) == sorted(expected)


@pytest.mark.parametrize("each", [True, False])
def test_step_gru_has_statistics_of_each_step_or_one_set(each, x):
    model = ModelConfig(name="step_gru", step_statistics=each)
    built = make_model(model, NormConfig(momentum=0.0), 10)
    variables = built.init(jax.random.key(0), x, train=True)
    _, updates = built.apply(variables, x, train=True, mutable=["batch_stats"])
    shapes = {a.shape for a in jax.tree.leaves(updates)}
    assert shapes == {(8, 96) if each else (96,)}
    # The first norm sees the rows: its means are known.
    (cell,) = (variables["params"][name(variables, "Cell")].items(),)
    kernel = dict(cell)["Dense_0"]["kernel"]
    rows = x.reshape(4, 8, 8)
    expected = (rows @ kernel).mean(0)
    stats = updates["batch_stats"][name(variables, "Cell")]["BatchNorm_0"]["mean"]
    assert jnp.allclose(stats, expected if each else expected[-1], atol=1e-4)


def name(variables, part):
    (found,) = (k for k in variables["params"] if part in k)
    return found


def test_dropout_does_not_depend_on_how_the_batch_is_cut(x):
    """A shard draws what its examples would draw in the whole batch."""
    config = ModelConfig(name="dense", dropout=0.5)
    whole, shard = (
        NETWORKS["dense"](
            norm=no_norm, num_classes=10, dropout=config.dropout, axis_name=axis
        )
        for axis in (None, "shards")
    )
    variables = whole.init(jax.random.key(0), x, train=False)
    rngs = {"dropout": jax.random.key(1)}
    expected = whole.apply(variables, x, train=True, rngs=rngs)
    cut = x.reshape(2, 2, 8, 8, 1)
    got = jax.vmap(
        lambda part: shard.apply(variables, part, train=True, rngs=rngs),
        axis_name="shards",
    )(cut).reshape(4, 10)
    assert jnp.allclose(got, expected, atol=1e-5)
    assert not jnp.allclose(expected, whole.apply(variables, x, train=False))
