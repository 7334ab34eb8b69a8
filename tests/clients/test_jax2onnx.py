# SPDX-License-Identifier: Apache-2.0
"""jax2onnx: a small network in inference, exported and run by ONNX Runtime.

The numbers are equal. The graphs are not: jax2onnx knows Flax's norms by their classes
and writes one `BatchNormalization`, which ONNX Runtime folds into the convolution, so
that `Conv, Relu` remain. It sees jaxbn's norms as the arithmetic that they do, whose
three elementwise operations remain. The result is right, but reads the activations more
often. Where that counts, `restore` the model: its graph is then that of Flax's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
from tests.clients.comparing import AT_FIRST, Row, difference, version

pytestmark = pytest.mark.clients

SHAPE, WIDTH = (16, 16, 3), 8
# After ONNX Runtime's own optimization, without the transpositions to its axes.
NODES = {
    "flax": ["Conv", "Relu"],
    "jaxbn": ["Conv", "Sub", "Mul", "Add", "Relu"],
}


def statistics():
    """Those of a trained layer, with its parameters."""
    rng = np.random.default_rng(0)
    draw = {"mean": rng.normal(size=WIDTH), "var": rng.gamma(2, 0.5, WIDTH)}
    draw |= {"scale": rng.normal(1, 0.3, WIDTH), "bias": rng.normal(size=WIDTH)}
    return {name: jnp.asarray(value, jnp.float32) for name, value in draw.items()}


def linen_network(norm):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(WIDTH, (3, 3), use_bias=False)(x)
            return nn.relu(norm(use_running_average=True, name="norm")(x))

    net = Net()
    variables = net.init(jax.random.key(0), jnp.ones((1, *SHAPE)))
    drawn = statistics()
    for kind in variables:
        variables[kind]["norm"] = {k: drawn[k] for k in variables[kind]["norm"]}
    return lambda x: net.apply(variables, x)


def nnx_network(norm):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, WIDTH, (3, 3), use_bias=False, rngs=rngs)
            self.norm = norm(WIDTH, use_running_average=True, rngs=rngs)

        def __call__(self, x):
            return nnx.relu(self.norm(self.conv(x)))

    net = Net(nnx.Rngs(0))
    for name, value in statistics().items():
        getattr(net.norm, name).set_value(value)
    return net


def exported(network, x, folder):
    """What ONNX Runtime computes, and the operations that it has left."""
    import jax2onnx
    import onnx
    import onnxruntime

    model = jax2onnx.to_onnx(network, inputs=[("B", *SHAPE)])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    return y, [n.op_type for n in nodes if n.op_type != "Transpose"]


@pytest.mark.parametrize(
    ("network", "norms"),
    [
        (linen_network, {"flax": nn.BatchNorm, "jaxbn": jaxbn.linen.BatchNorm}),
        (nnx_network, {"flax": nnx.BatchNorm, "jaxbn": jaxbn.nnx.BatchNorm}),
    ],
)
def test_export(network, norms, tmp_path, table):
    x = np.random.default_rng(1).normal(size=(4, *SHAPE)).astype(np.float32)
    outputs = {}
    for name, norm in norms.items():
        net = network(norm)
        outputs[name], nodes = exported(net, x, tmp_path)
        assert nodes == NODES[name]
        assert difference(net(x), outputs[name]) <= AT_FIRST
    off = difference(outputs["flax"], outputs["jaxbn"])
    program = f"{version('jax2onnx')} {network.__name__}"
    table([Row(program, "outputs", 0, AT_FIRST, off)])


def test_export_of_a_restored_linen_model(tmp_path):
    """Made with jaxbn's norm, or with Flax's, replaced and restored: no node more."""
    x = np.random.default_rng(1).normal(size=(4, *SHAPE)).astype(np.float32)
    flax = linen_network(nn.BatchNorm)
    expected, nodes = exported(flax, x, tmp_path)
    assert nodes == NODES["flax"]
    replaced = jaxbn.linen.replace(flax)
    for apply in (linen_network(jaxbn.linen.BatchNorm), replaced):
        y, nodes = exported(jaxbn.linen.restore(apply), x, tmp_path)
        assert nodes == NODES["flax"]
        np.testing.assert_array_equal(y, expected)


def test_export_of_a_restored_nnx_model(tmp_path):
    x = np.random.default_rng(1).normal(size=(4, *SHAPE)).astype(np.float32)
    expected, nodes = exported(nnx_network(nnx.BatchNorm), x, tmp_path)
    assert nodes == NODES["flax"]
    for norm in (jaxbn.nnx.BatchNorm, nnx.BatchNorm):
        model = nnx_network(norm)
        jaxbn.nnx.replace(model)
        _, nodes = exported(model, x, tmp_path)
        assert nodes == NODES["jaxbn"]
        assert jaxbn.nnx.restore(model).changed == ("norm",)
        y, nodes = exported(model, x, tmp_path)
        assert nodes == NODES["flax"]
        np.testing.assert_array_equal(y, expected)
