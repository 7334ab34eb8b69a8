# SPDX-License-Identifier: Apache-2.0
"""Norms in training are refused; those of single examples are none; masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn
import jaxbn.linen
import jaxbn.nnx
from jaxbn.folding import fold
from tests.folding.networks import draw, draw_norm, norm, primitives

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize(
    ("batch_norm", "name"),
    [
        (nn.BatchNorm, "Net/norm"),
        (jaxbn.linen.BatchNorm, "Net/norm"),
        (jaxbn.linen.BatchRenorm, "Net/norm"),
    ],
)
def test_linen_in_training(batch_norm, name, size):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3,))(x)
            return batch_norm(use_running_average=False, name="norm")(x)

    x = jnp.ones((size, 5, 3))
    variables = Net().init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=f"batch in `{name}`; .*running_average=True"):
        fold(lambda v, x: Net().apply(v, x, mutable=["batch_stats"]), variables, x)


@pytest.mark.parametrize("batch_norm", [nnx.BatchNorm, jaxbn.nnx.BatchNorm])
def test_nnx_in_training(batch_norm):
    model = batch_norm(3, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)

    def apply(state, x):
        return nnx.merge(graph, state)(x)

    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        fold(apply, state, jnp.ones((8, 3)))


@pytest.mark.parametrize(
    "other", [nn.LayerNorm, nn.RMSNorm, lambda: nn.GroupNorm(2), nn.InstanceNorm]
)
@pytest.mark.parametrize("size", [1, 8])
def test_norms_of_single_examples_are_no_alarm(other, size):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x))
            return other()(x)

    x = jnp.ones((size, 5, 5, 3))
    variables = Net().init(jax.random.key(0), x)
    folded = fold(Net().apply, variables, x)
    assert folded.report[0].reason is None
    np.testing.assert_allclose(folded(x), Net().apply(variables, x), atol=1e-5)


@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_masked_inference_with_residual_and_activation(dtype, rng):
    """The affine part folds, and the selection that only it needed goes with it."""
    params = {"kernel": draw(rng, 3, 4), "norm": draw_norm(rng, 4)}
    x, residual = draw(rng, 8, 5, 3), draw(rng, 8, 5, 4)
    mask = (rng.random((8, 5)) < 0.5).astype(dtype)
    params, x, mask, residual = jax.tree.map(jnp.asarray, (params, x, mask, residual))

    def network(p, x, mask, residual):
        z = x @ p["kernel"]
        return jaxbn.normalize(
            z, **p["norm"], mask=mask, residual=residual, activation=jax.nn.relu
        )

    folded = fold(network, params, x, mask, residual)
    assert [entry.reason for entry in folded.report] == [None]
    expected = network(params, x, mask, residual)
    np.testing.assert_allclose(folded(x, mask, residual), expected, atol=1e-5)
    found = primitives(folded.function, folded.params, x, mask, residual)
    assert found.count("select_n") == 2  # of the residual and of the output
    assert not {"sub", "mul", "rsqrt"} & {*found}


def test_a_mask_that_is_not_repeated_stays(rng):
    """Another mask afterwards, or none, or what reads other positions."""
    params = {"kernel": draw(rng, 3, 4), "norm": draw_norm(rng, 4)}
    x = draw(rng, 8, 3)
    first, second = rng.random((2, 8, 1)) < 0.5

    def once(p, x, mask, _):
        return norm(jnp.where(mask, x @ p["kernel"], 0), p["norm"])

    def other(p, x, mask, second):
        return jnp.where(second, once(p, x, mask, None), 0)

    def shifted(p, x, mask, _):
        z = jnp.roll(once(p, x, mask, None), 1, 0)
        return jnp.where(mask, z, 0)

    for network in (once, other, shifted):
        folded = fold(network, params, x, first, second)
        assert folded.report[0].reason is not None
        np.testing.assert_allclose(
            folded(x, first, second), network(params, x, first, second), atol=1e-5
        )
