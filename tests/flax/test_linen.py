# SPDX-License-Identifier: Apache-2.0
"""`jaxbn.linen.BatchNorm` against Flax's module, where Flax is right."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn.linen import BatchNorm


class Net(nn.Module):
    """A model that takes its norm, as people write them."""

    norm: type[nn.Module]

    @nn.compact
    def __call__(self, x, train):
        norm = lambda name: self.norm(  # noqa: E731
            use_running_average=not train, momentum=0.9, dtype=x.dtype, name=name
        )
        x = nn.relu(norm("first")(nn.Conv(8, (3, 3))(x)))
        x = norm("second")(nn.Dense(5)(x))
        return x.mean((1, 2))


def test_is_a_drop_in_for_flax(rng):
    x = jnp.asarray(rng.normal(size=(8, 6, 6, 3)), jnp.float32)
    ours, theirs = Net(BatchNorm), Net(nn.BatchNorm)
    variables = theirs.init(jax.random.key(0), x, train=True)
    chex.assert_trees_all_equal(variables, ours.init(jax.random.key(0), x, train=True))

    def loss(net, params, stats):
        y, updates = net.apply(
            {"params": params, "batch_stats": stats}, x, train=True,
            mutable=["batch_stats"],
        )  # fmt: skip
        return jnp.sum(y**2), (y, updates["batch_stats"])

    def train(net, params, stats):
        """Three steps of gradient descent, statistics carried along."""
        for _ in range(3):
            gradient = jax.grad(lambda p, s=stats: loss(net, p, s), has_aux=True)
            slope, (y, stats) = gradient(params)
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, slope)
        evaluated = net.apply({"params": params, "batch_stats": stats}, x, train=False)
        return params, stats, y, evaluated

    results = [
        jax.jit(lambda p, s, n=net: train(n, p, s))(
            variables["params"], variables["batch_stats"]
        )
        for net in (ours, theirs)
    ]
    chex.assert_trees_all_close(*results, rtol=2e-4, atol=2e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(*results)


def test_initialization_updates_nothing_and_takes_a_batch_of_one():
    y, variables = BatchNorm().init_with_output(
        jax.random.key(0), jnp.full((1, 3), 7.0), use_running_average=False
    )
    stats = variables["batch_stats"]
    assert not np.any(y) and not np.any(stats["mean"]) and np.all(stats["var"] == 1)


def test_parameters_may_be_of_another_dtype(rng):
    x = jnp.asarray(rng.normal(size=(8, 3)), jnp.bfloat16)
    module = BatchNorm(use_running_average=False, param_dtype=jnp.bfloat16)
    variables = module.init(jax.random.key(0), x)
    chex.assert_type(list(variables["params"].values()), jnp.bfloat16)
    chex.assert_type(list(variables["batch_stats"].values()), jnp.float32)
    slope = jax.grad(
        lambda p: module.apply(
            {**variables, "params": p}, x, mutable=["batch_stats"]
        )[0].astype(jnp.float32).sum()
    )(variables["params"])  # fmt: skip
    chex.assert_type(list(slope.values()), jnp.bfloat16)


def test_the_train_flag_is_given_once():
    with pytest.raises(ValueError, match="use_running_average"):
        BatchNorm().init(jax.random.key(0), jnp.ones((2, 3)))
