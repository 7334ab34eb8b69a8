# SPDX-License-Identifier: Apache-2.0
"""Variables of trained models, from Linen to NNX and back."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
from jaxbn.convert import from_linen, to_linen

pytestmark = pytest.mark.usefixtures("as_users_run_it")


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(8, name="dense")(x)
        options = {"use_running_average": not train, "debias": True, "name": "norm"}
        return jaxbn.linen.BatchNorm(**options)(x)


class NnxNet(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(1)
        self.dense = nnx.Linear(4, 8, rngs=rngs)
        self.norm = jaxbn.nnx.BatchNorm(8, debias=True, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.dense(x))


@pytest.fixture
def trained(rng):
    """A Linen model's variables after a step, and its input."""
    x = jnp.asarray(rng.normal(1, 2, (16, 4)), jnp.float32)
    variables = LinenNet().init(jax.random.key(0), x, train=True)
    _, updates = LinenNet().apply(variables, x, train=True, mutable=["batch_stats"])
    return {**variables, **updates}, x


def test_from_linen_and_back(trained):
    variables, x = trained
    model = NnxNet()
    from_linen(model, variables)
    expected = LinenNet().apply(variables, x, train=False)
    model.eval()
    np.testing.assert_allclose(model(x), expected, atol=1e-6)
    chex.assert_trees_all_equal(to_linen(model), variables)


def test_what_does_not_fit_is_named_and_sets_nothing(trained):
    variables, _ = trained
    model = NnxNet()
    before = to_linen(model)
    stats = variables["batch_stats"]["norm"]
    renamed = {**variables, "batch_stats": {"other": stats}}
    with pytest.raises(ValueError, match=r"it lacks .*'batch_stats/norm/var'"):
        from_linen(model, renamed)
    longer = {**stats, "mean": jnp.zeros(9)}
    with pytest.raises(ValueError, match=r"got \(9,\) for `batch_stats/norm/mean`"):
        from_linen(model, {**variables, "batch_stats": {"norm": longer}})
    chex.assert_trees_all_equal(to_linen(model), before)


@pytest.mark.usefixtures("without_type_checker")
def test_another_kind_is_refused(trained):
    with pytest.raises(TypeError) as raised:
        to_linen(trained[0])
    assert str(raised.value) == (
        "`module` must be an `nnx.Module`, got <class 'dict'>."
    )
