# SPDX-License-Identifier: Apache-2.0
"""Networks of Flax with its norms and with ours; what other frameworks make of it is
in `tests/comparison/folding.py`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
from jaxbn.folding import fold
from tests.folding.networks import primitives

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def trained(variables, rng):
    """Variables as after training: no statistic, scale or bias is at its start."""

    def drawn(path, leaf):
        low = 0.5 if path[-1].key == "var" else None
        x = rng.uniform(low, 2, leaf.shape) if low else rng.normal(size=leaf.shape)
        size = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 1
        return jnp.asarray(x / np.sqrt(size), leaf.dtype)

    return jax.tree_util.tree_map_with_path(drawn, variables)


class Block(nn.Module):
    """A residual block with a depthwise convolution."""

    norm: type
    dtype: object

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = functools.partial(self.norm, use_running_average=True, dtype=self.dtype)
        y = nn.relu(norm()(conv(8, (1, 1))(x)))
        y = nn.relu6(norm()(conv(8, (3, 3), feature_group_count=8)(y)))
        return x + norm(use_bias=False)(conv(x.shape[-1], (1, 1))(y))


class Net(nn.Module):
    norm: type
    dtype: object = None

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(self.norm, use_running_average=True, dtype=self.dtype)
        x = nn.ConvTranspose(4, (2, 2), (2, 2), dtype=self.dtype)(x)
        x = Block(self.norm, self.dtype)(norm(use_scale=False)(x))
        x = nn.max_pool(jnp.tanh(x), (2, 2), (2, 2))
        x = norm(name="odd name/with slash")(x).reshape(len(x), -1)
        return nn.Dense(3, dtype=self.dtype)(x)


@pytest.mark.parametrize("norm", [nn.BatchNorm, jaxbn.linen.BatchNorm])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_linen(norm, dtype, rng):
    net, x = Net(norm, dtype), rng.normal(size=(3, 4, 4, 2)).astype(np.float32)
    variables = trained(net.init(jax.random.key(0), x), rng)
    before = jax.tree.map(np.asarray, variables)
    folded = fold(net.apply, variables, x[:1])
    assert [*map(str, folded.report)] == [
        "batch_stats/BatchNorm_0: folded into params/ConvTranspose_0/kernel",
        "Block_0/BatchNorm_0: folded into params/Block_0/Conv_0/kernel",
        "Block_0/BatchNorm_1: folded into params/Block_0/Conv_1/kernel",
        "Block_0/BatchNorm_2: folded into params/Block_0/Conv_2/kernel",
        "odd name/with slash: folded into params/Dense_0/kernel",
    ]
    jax.tree.map(np.testing.assert_array_equal, before, variables)
    expected, y = net.apply(variables, x), folded(x)
    assert y.dtype == expected.dtype
    close = 1e-5 if dtype is None else 0.05
    assert abs(y - expected).max() <= close * abs(expected).max()
    found = primitives(folded.function, folded.params, x)
    assert not {"rsqrt", "mul", "div", "sub"} & {*found}


@pytest.mark.parametrize("norm", [nnx.BatchNorm, jaxbn.nnx.BatchNorm])
def test_nnx(norm, rng):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.norm = norm(4, rngs=rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))

    model = Model(nnx.Rngs(0))
    x = rng.normal(size=(4, 6, 6, 3)).astype(np.float32)
    model(x)  # running statistics that are not at their start
    model.eval()
    graph, state = nnx.split(model)
    folded = fold(lambda state, x: nnx.merge(graph, state)(x), state, x)
    assert [*map(str, folded.report)] == ["norm: folded into conv/kernel"]
    assert {"conv/kernel", "conv/bias", "head/kernel", "head/bias"} <= {*folded.params}
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-5, atol=1e-6)


def test_a_fused_activation_and_a_residual(rng):
    class Fused(nn.Module):
        @nn.compact
        def __call__(self, x, residual):
            norm = jaxbn.linen.BatchNorm(use_running_average=True, activation=nn.silu)
            return norm(nn.Dense(4)(x), residual=residual)

    x, residual = jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32)
    variables = trained(Fused().init(jax.random.key(0), x, residual), rng)
    folded = fold(Fused().apply, variables, x, residual)
    assert folded.report[0].reason is None
    expected = Fused().apply(variables, x, residual)
    np.testing.assert_allclose(folded(x, residual), expected, rtol=1e-5, atol=1e-6)


class Inception(nn.Module):
    """Branches of several windows, with one norm after their concatenation."""

    norm: type

    @nn.compact
    def __call__(self, x):
        wide = nn.Conv(5, (3, 3), name="wide")(nn.relu(nn.Conv(4, (1, 1))(x)))
        pooled = nn.max_pool(x, (3, 3), padding="SAME")
        parts = [
            nn.Conv(3, (1, 1), use_bias=False, name="narrow")(x),
            wide,
            nn.Conv(2, (1, 1), name="pooled")(pooled),
        ]
        norm = self.norm(use_running_average=True, name="norm")
        return nn.relu(norm(jnp.concatenate(parts, -1)))


@pytest.mark.parametrize("norm", [nn.BatchNorm, jaxbn.linen.BatchNorm])
def test_an_inception_block(norm, rng):
    x = jnp.asarray(rng.normal(size=(2, 5, 5, 4)), jnp.float32)
    net = Inception(norm)
    variables = trained(net.init(jax.random.key(0), x), rng)
    folded = fold(net.apply, variables, x[:1])
    kernels = [f"params/{name}/kernel" for name in ("narrow", "wide", "pooled")]
    assert [entry.kernels for entry in folded.report] == [(*kernels,)]
    assert {k.replace("kernel", "bias") for k in kernels} <= {*folded.params}
    expected = net.apply(variables, x)
    np.testing.assert_allclose(folded(x), expected, rtol=1e-5, atol=1e-5)
    found = primitives(folded.function, folded.params, x)
    assert not {"rsqrt", "mul", "sub"} & {*found}


@pytest.mark.parametrize("norm", [nnx.BatchNorm, jaxbn.nnx.BatchNorm])
def test_a_dense_block(norm, rng):
    """A layer takes what all before it gave: only what is used once can change."""

    class DenseBlock(nnx.Module):
        def __init__(self, rngs):
            self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.norms = nnx.List([norm(4 + 2 * i, rngs=rngs) for i in range(2)])
            self.convs = nnx.List(
                [nnx.Conv(4 + 2 * i, 2, (3, 3), rngs=rngs) for i in range(2)]
            )
            self.split = norm(4, rngs=rngs)

        def __call__(self, x):
            x = self.stem(x)
            for norm, conv in zip(self.norms, self.convs, strict=True):
                y = conv(nnx.relu(norm(x)))
                x = jnp.concatenate([x, y], -1)
            first, second = self.convs
            last = [first(nnx.relu(x[..., :4])), second(nnx.relu(x[..., :6]))]
            return self.split(jnp.concatenate(last, -1))

    model = DenseBlock(nnx.Rngs(0))
    x = jnp.asarray(rng.normal(size=(4, 6, 6, 3)), jnp.float32)
    model(x)  # running statistics that are not at their start
    model.eval()
    graph, state = nnx.split(model)
    folded = fold(lambda state, x: nnx.merge(graph, state)(x), state, x)
    after = "because its input is used elsewhere too and its output goes into `relu`"
    assert [*map(str, folded.report)] == [
        f"norms/0: left, {after}",
        f"norms/1: left, {after}",
        "split: folded into convs/0/kernel_2, convs/1/kernel_2",  # their second uses
    ]
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-5, atol=1e-5)


def test_norms_inside_a_scan_are_left(rng):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.BatchNorm(use_running_average=True)(nn.Dense(4)(x)), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            axes = {"params": 0, "batch_stats": 0}
            rngs = {"params": True}
            layers = nn.scan(Layer, variable_axes=axes, split_rngs=rngs, length=3)
            return layers(name="layers")(x, None)[0]

    x = rng.normal(size=(5, 4)).astype(np.float32)
    variables = trained(Net().init(jax.random.key(0), x), rng)
    folded = fold(Net().apply, variables, x)
    assert [*map(str, folded.report)] == [
        "layers/BatchNorm_0: left, because it is inside `scan`"
    ]
    np.testing.assert_allclose(folded(x), Net().apply(variables, x), rtol=1e-5)


def test_inputs_and_outputs_are_pytrees(rng):
    params = {"kernel": rng.normal(size=(3, 2)), "scale": rng.normal(size=2)}
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)

    def network(p, batch, offset):
        y = (batch["x"] @ p["kernel"]) * p["scale"]
        return {"y": y, "shifted": (jnp.sin(y) + offset,)}

    batch = {"x": rng.normal(size=(4, 3)).astype(np.float32), "unused": np.ones(2)}
    folded = fold(network, params, batch, 1.0)
    got, expected = folded(batch, 1.0), network(params, batch, 1.0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, expected
    )
