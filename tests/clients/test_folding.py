# SPDX-License-Identifier: Apache-2.0
"""jax2onnx: a folded network has no trace of its norm, and no node more than Flax's.

jax2onnx knows Flax's layers by their classes, and writes `Conv, Relu`. A folded
function is plain JAX: a bias is added where ONNX keeps a convolution's features, so
that ONNX Runtime makes it the convolution's; a product is called as `jnp.matmul`, for
the same reason; and `jax.nn.relu` is called as such.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export

import jaxbn.linen
from jaxbn.folding import fold
from tests.clients.comparing import AT_FIRST, difference
from tests.clients.test_jax2onnx import SHAPE, WIDTH, statistics

pytestmark = pytest.mark.clients


def optimized(function, shape, x, folder):
    """What ONNX Runtime makes of a function: its nodes without layouts, its output."""
    import jax2onnx
    import onnx
    import onnxruntime

    model = jax2onnx.to_onnx(function, inputs=[shape])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    named = [n.op_type for n in nodes if not n.op_type.startswith("Reorder")]
    return [name for name in named if "Transpose" not in name], y


@pytest.mark.parametrize("norm", [nn.BatchNorm, jaxbn.linen.BatchNorm])
@pytest.mark.parametrize("batch", ["4", "batch"])
def test_export(norm, batch, tmp_path):
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
    (size,) = export.symbolic_shape(batch)
    shape = jax.ShapeDtypeStruct((size, *SHAPE), jnp.float32)
    folded = fold(net.apply, variables, shape)

    x = np.random.default_rng(1).normal(size=(4, *SHAPE)).astype(np.float32)
    named, y = optimized(lambda x: folded(x), shape, x, tmp_path)
    assert named == ["Conv", "Relu"]
    assert difference(net.apply(variables, x), y) <= AT_FIRST


class Dense(nn.Module):
    """Layers with a bias, before a norm and without one."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Dense(WIDTH)(x)))
        return nn.Dense(3)(nn.relu(nn.Dense(WIDTH)(x)))


class Convolutional(nn.Module):
    """The last convolution has a bias and no norm."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(WIDTH, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.Conv(3, (1, 1))(x)


@pytest.mark.parametrize(("net", "shape"), [(Dense(), (6,)), (Convolutional(), SHAPE)])
def test_no_node_more_than_flax(net, shape, tmp_path):
    (size,) = export.symbolic_shape("batch")
    shaped = jax.ShapeDtypeStruct((size, *shape), jnp.float32)
    variables = net.init(jax.random.key(0), jnp.ones((1, *shape)))
    variables = jax.tree.map(lambda a: a + 0.25, variables)
    x = np.random.default_rng(1).normal(size=(4, *shape)).astype(np.float32)
    theirs, expected = optimized(lambda x: net.apply(variables, x), shaped, x, tmp_path)
    folded = fold(net.apply, variables, shaped)
    named, y = optimized(lambda x: folded(x), shaped, x, tmp_path)
    assert len(named) <= len(theirs)
    assert not {"Add", "MatMul"} & {*named}
    assert difference(expected, y) <= AT_FIRST
