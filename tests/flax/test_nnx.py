# SPDX-License-Identifier: Apache-2.0
"""`jaxbn.nnx.BatchNorm`: Flax's module where Flax is right, and NNX's transforms."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbn.nnx import BatchNorm
from tests import oracle

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(1, 2, (16, 4)), jnp.float32)


class Net(nnx.Module):
    """A model that takes its norm, as people write them."""

    def __init__(self, norm, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.norm = norm(8, momentum=0.9, rngs=rngs)
        self.last = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


@nnx.jit
def train_step(model, x):
    def loss(model):
        return jnp.mean(model(x) ** 2)

    slope = nnx.grad(loss)(model)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda p, g: p - 0.1 * g, params, slope))


def test_is_a_drop_in_for_flax(x):
    """Three steps under `nnx.jit` and `nnx.grad`, then evaluation."""
    ours, theirs = (Net(norm, nnx.Rngs(0)) for norm in (BatchNorm, nnx.BatchNorm))
    chex.assert_trees_all_equal(
        nnx.to_pure_dict(nnx.state(ours)), nnx.to_pure_dict(nnx.state(theirs))
    )
    for model in (ours, theirs):
        model.train()
        for _ in range(3):
            train_step(model, x)
        model.eval()
    states = (nnx.to_pure_dict(nnx.state(model)) for model in (ours, theirs))
    chex.assert_trees_all_close(*states, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
    assert isinstance(ours.norm.mean, nnx.BatchStat)
    assert isinstance(ours.norm.scale, nnx.Param)


def test_view_and_modes(x):
    norm = BatchNorm(4, rngs=nnx.Rngs(0))
    frozen = nnx.view(norm, use_running_average=True)
    frozen(x)
    assert np.all(norm.mean[...] == 0)
    norm(x)
    assert np.all(frozen.mean[...] != 0)  # the same variables
    norm.eval()
    assert norm.use_running_average
    norm.train()
    assert not norm.use_running_average


def test_under_scan(x):
    """One module per step of a stack, mapped over by `nnx.scan`."""

    @nnx.split_rngs(splits=3)
    @nnx.vmap(axis_size=3)
    def stack(rngs):
        return BatchNorm(4, momentum=0.0, rngs=rngs)

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def forward(x, norm):
        return norm(x) * 2

    norms = stack(nnx.Rngs(0))
    y = forward(x, norms)
    assert norms.mean[...].shape == (3, 4)
    np.testing.assert_allclose(norms.mean[...][0], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norms.var[...][1:], 4, rtol=1e-4)
    np.testing.assert_allclose(y.std(0), 2, rtol=1e-4)


def test_a_batch_axis_of_vmap_is_synchronised(rng):
    """In the documented way: the module is passed in as state, and comes back."""
    x = jnp.asarray(rng.normal(1, 2, (2, 8, 4)), jnp.float32)
    norm = BatchNorm(4, momentum=0.0, axis_name="i", rngs=nnx.Rngs(0))
    graph, state = nnx.split(norm)

    def local(x):
        module = nnx.merge(graph, state, copy=True)
        y = module(x)
        return y, nnx.state(module, nnx.BatchStat)

    y, new = jax.vmap(local, axis_name="i")(x)
    nnx.update(norm, jax.tree.map(lambda a: a[0], new))
    expected = oracle.BatchNorm(x.reshape(16, 4)).forward()
    np.testing.assert_allclose(y.reshape(16, 4), expected.y, atol=2e-6)
    np.testing.assert_allclose(norm.mean[...], expected.mean, rtol=1e-6)


def test_eval_shape():
    """flax#4734: the shapes of a model with batch norm, without computing."""
    model = Net(BatchNorm, nnx.Rngs(0))
    y = nnx.eval_shape(
        lambda m, x: m(x), model, jax.ShapeDtypeStruct((3, 4), jnp.float32)
    )
    assert y.shape == (3, 2)
    made = nnx.eval_shape(lambda: Net(BatchNorm, nnx.Rngs(0)))
    assert made.norm.mean.shape == (8,)


def test_several_feature_axes(rng):
    """Where Flax NNX knows one."""
    x = jnp.asarray(rng.normal(1, 2, (16, 3, 5)), jnp.float32)
    norm = BatchNorm((3, 5), axis=(1, 2), rngs=nnx.Rngs(0))
    expected = oracle.BatchNorm(x, axis=(1, 2)).forward()
    np.testing.assert_allclose(norm(x), expected.y, atol=2e-6)


def test_another_number_of_features_is_refused(x):
    with pytest.raises(ValueError, match=r"`scale` must have shape \(4,\)"):
        BatchNorm(5, rngs=nnx.Rngs(0))(x)


def test_the_train_flag_is_given_somewhere(x):
    norm = BatchNorm(4, use_running_average=None, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="`use_running_average` must be given to the"):
        norm(x)
