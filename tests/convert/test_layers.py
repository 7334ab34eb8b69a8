# SPDX-License-Identifier: Apache-2.0
"""The layers of a Flax model: their order, their kinds, and their boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
from jaxbn._convert.layers import read_model
from jaxbn.convert import from_torch

pytestmark = pytest.mark.usefixtures("as_users_run_it", "without_type_checker")

X = jnp.ones((2, 3))


class Block(nn.Module):
    last: nn.Module

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3)(x)
        x = jaxbn.linen.BatchNorm(use_running_average=True)(x)
        return self.last(nn.relu(nn.Dense(3)(x)))


class Net(nn.Module):
    def setup(self):
        self.shared = nn.Dense(3)
        self.blocks = [Block(self.shared), Block(self.shared)]
        self.norm = nn.LayerNorm()
        self.last = nn.remat(nn.BatchNorm)(use_running_average=True)

    def __call__(self, x):
        for block in self.blocks[::-1]:
            x = block(x)
        return self.last(self.norm(x))


class Flip(nn.Module):
    """Without variables; it runs unbound too, and has no path then."""

    def __call__(self, x):
        return x[::-1]


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Flip(parent=None)(Net(name="net")(x))


def test_linen_in_the_order_of_use():
    """More than ten, in blocks, set up and compact, shared, under remat."""
    layers, _ = read_model(lambda key: Outer().init(key, X))
    assert [layer.path for layer in layers] == [
        "net/blocks_1/Dense_0",
        "net/blocks_1/BatchNorm_0",
        "net/blocks_1/Dense_1",
        "net/shared",
        "net/blocks_0/Dense_0",
        "net/blocks_0/BatchNorm_0",
        "net/blocks_0/Dense_1",
        "net/norm",
        "net/last",
    ]
    kinds = [layer.kind for layer in layers]
    assert kinds[1] == kinds[8] == "batch_norm" and kinds[7] == "norm"
    assert {layer.rank for layer in layers} == {2}


def test_linen_keeps_boxes_and_other_orders():
    init = nn.with_partitioning(nn.initializers.ones, (None, "model"))
    dense = nn.Dense(4, kernel_init=init)
    model = read_model(lambda key: dense.init(key, X))
    values = {
        (layer.path, name): jnp.full(v.shape, 2.0)
        for layer in model.layers
        for name, v in layer.variables.items()
    }
    new = model.write(values)
    kernel = new["params"]["kernel"]
    assert isinstance(kernel, nn.Partitioned) and kernel.names == (None, "model")
    assert np.all(kernel.value == 2)
    layers, _ = read_model(lambda key: dense.init(key, X), new)
    assert np.all(layers[0].variables["kernel"] == 2)


def test_a_function_that_was_compiled_before():
    """Only an `init` that JAX has traced before hides its layers."""
    dense = nn.Dense(4)
    compiled = jax.jit(lambda key: dense.init(key, X))
    compiled(jax.random.key(0))
    with pytest.raises(ValueError, match=r"without `jax\.jit`"):
        read_model(compiled)


class NnxNet(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.zero = nnx.Linear(3, 3, rngs=rngs)
        self.blocks = nnx.List([jaxbn.nnx.BatchNorm(3, rngs=rngs) for _ in range(11)])
        self.again = self.zero
        self.by_name = nnx.Dict(norm=nnx.BatchNorm(3, rngs=rngs), drop=nnx.Dropout(0.1))
        self.sequence = nnx.Sequential(nnx.relu, nnx.Linear(3, 1, rngs=rngs))


def test_nnx_in_the_order_of_definition_each_once():
    layers, _ = read_model(NnxNet())
    assert [layer.path for layer in layers] == [
        "zero",
        *(f"blocks/{k}" for k in range(11)),
        "by_name/norm",
        "sequence/layers/1",
    ]


def test_nnx_keeps_sharding_and_metadata():
    """On eight devices; what is on none in particular stays so."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.NamedSharding(mesh, jax.P(None, "d"))
    model = nnx.Linear(3, 16, rngs=nnx.Rngs(0))
    model.kernel.set_metadata(mine="kept")
    model.kernel[...] = jax.device_put(model.kernel[...], sharded)
    weights = {"weight": np.ones((16, 3)), "bias": np.ones(16)}
    from_torch(model, weights)
    assert model.kernel.get_metadata()["mine"] == "kept"
    assert model.kernel[...].sharding == sharded and np.all(model.kernel[...] == 1)
    assert not model.bias[...].committed


def test_an_abstract_nnx_model_is_filled():
    model = nnx.eval_shape(lambda: nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    from_torch(model, {"weight": np.ones((2, 3)), "bias": np.ones(2)})
    assert np.all(model(np.ones((1, 3), np.float32)) == 4)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(1)(nn.Dense(3)(x))


def test_what_is_not_known_is_refused():
    with pytest.raises(
        ValueError, match=r"others in \['MultiHeadDotProductAttention_0/key', "
    ):
        read_model(lambda key: Attention().init(key, X[None]))


def test_a_known_layer_with_other_variables_is_refused():
    """Such as a record of population statistics that is not finished."""
    norm = jaxbn.nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    norm.population_mean = nnx.BatchStat(jnp.zeros(3))
    with pytest.raises(ValueError, match=r"others in \['the network itself'\]"):
        read_model(norm)
