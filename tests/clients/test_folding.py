# SPDX-License-Identifier: Apache-2.0
"""jax2onnx: a folded network has no trace of its norm, and no node more than Flax's.

jax2onnx knows Flax's layers by their classes, and writes `Conv, Relu`. A folded
function is plain JAX: its bias is added where ONNX keeps a convolution's features, so
that ONNX Runtime makes it the convolution's, and `jax.nn.relu` is called as such.
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


@pytest.mark.parametrize("norm", [nn.BatchNorm, jaxbn.linen.BatchNorm])
@pytest.mark.parametrize("batch", ["4", "batch"])
def test_export(norm, batch, tmp_path):
    import jax2onnx
    import onnx
    import onnxruntime

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

    model = jax2onnx.to_onnx(lambda x: folded(x), inputs=[shape])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    x = np.random.default_rng(1).normal(size=(4, *SHAPE)).astype(np.float32)
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    named = [node.op_type for node in nodes if "Transpose" not in node.op_type]
    assert [n for n in named if not n.startswith("Reorder")] == ["Conv", "Relu"]
    assert difference(net.apply(variables, x), y) <= AT_FIRST
