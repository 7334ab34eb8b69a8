# SPDX-License-Identifier: Apache-2.0
"""Weights as PyTorch stores them, against convolutions written as PyTorch defines them.

`tests/networks` does the same with PyTorch's own modules.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
from jaxbn.convert import from_torch, to_torch

pytestmark = pytest.mark.usefixtures("as_users_run_it", "without_type_checker")


def conv2d(x, weight, bias, stride, padding, groups):
    """`torch.nn.functional.conv2d`, from its definition, in float64."""
    x = np.pad(x, ((0, 0), (0, 0), *[(padding, padding)] * 2))
    outputs, inputs, *size = weight.shape
    windows = np.lib.stride_tricks.sliding_window_view(x, size, (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    y = []
    for o in range(outputs):
        first = o // (outputs // groups) * inputs
        part = windows[:, first : first + inputs]
        y.append(np.einsum("bihwkl,ikl->bhw", part, weight[o]) + bias[o])
    return np.stack(y, 1)


def conv_transpose2d(x, weight, bias, stride, padding):
    """Each input adds the kernel, weighted by it, to the output."""
    b, _, height, width = x.shape
    _, outputs, k, m = weight.shape
    y = np.zeros((b, outputs, (height - 1) * stride + k, (width - 1) * stride + m))
    for i in range(height):
        for j in range(width):
            part = np.einsum("bi,iokl->bokl", x[:, :, i, j], weight)
            y[:, :, i * stride : i * stride + k, j * stride : j * stride + m] += part
    y = y[:, :, padding : y.shape[2] - padding, padding : y.shape[3] - padding]
    return y + bias[:, None, None]


def near(ours, theirs, terms):
    theirs = np.moveaxis(theirs, 1, -1)
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-6 * terms**0.5)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
@pytest.mark.parametrize(("groups", "outputs"), [(1, 6), (2, 6), (6, 6), (6, 12)])
def test_convolutions(kind, groups, outputs, rng):
    weights = {
        "weight": rng.normal(size=(outputs, 6 // groups, 3, 2)).astype(np.float32),
        "bias": rng.normal(size=outputs).astype(np.float32),
    }
    x = rng.normal(size=(2, 6, 7, 8))
    last = jnp.asarray(np.moveaxis(x, 1, -1), jnp.float32)
    options = {"strides": 2, "padding": 1, "feature_group_count": groups}
    if kind == "linen":
        conv = nn.Conv(outputs, (3, 2), **options)
        variables = from_torch(lambda key: conv.init(key, last), weights)
        y = conv.apply(variables, last)
    else:
        conv = nnx.Conv(6, outputs, (3, 2), rngs=nnx.Rngs(0), **options)
        y = from_torch(conv, weights)(last)
    near(y, conv2d(x, *weights.values(), 2, 1, groups), 36)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("outputs", [3, 4])
def test_transposed_convolutions(kind, transpose_kernel, outputs, rng):
    """With 3 inputs and outputs the shape does not tell one layout from another."""
    weights = {
        "weight": rng.normal(size=(3, outputs, 3, 2)).astype(np.float32),
        "bias": rng.normal(size=outputs).astype(np.float32),
    }
    x = rng.normal(size=(2, 3, 4, 5))
    last = jnp.asarray(np.moveaxis(x, 1, -1), jnp.float32)
    options = {"strides": (2, 2), "transpose_kernel": transpose_kernel}
    options["padding"] = [(3 - 1 - 1,) * 2, (2 - 1 - 1,) * 2]
    if kind == "linen":
        conv = nn.ConvTranspose(outputs, (3, 2), **options)
        variables = from_torch(lambda key: conv.init(key, last), weights)
        y = conv.apply(variables, last)
        back = to_torch(lambda key: conv.init(key, last), weights, variables=variables)
    else:
        conv = nnx.ConvTranspose(3, outputs, (3, 2), rngs=nnx.Rngs(0), **options)
        y = from_torch(conv, weights)(last)
        back = to_torch(conv, weights)
    near(y, conv_transpose2d(x, *weights.values(), 2, 1), 18)
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value)


class Flat(nn.Module):
    """A norm of flattened features between a convolution and a Dense layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(2, (1, 1), use_bias=False, name="conv")(x)
        x = x.reshape(len(x), -1)
        x = jaxbn.linen.BatchNorm(use_running_average=True, name="norm")(x)
        return nn.Dense(3, use_bias=False, name="dense")(x)


def test_the_order_of_flatten(rng):
    x = rng.normal(size=(2, 4, 5, 3)).astype(np.float32)
    weights = {"conv.weight": rng.normal(size=(2, 3, 1, 1))}
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        weights[f"norm.{leaf}"] = rng.uniform(1, 2, 40)
    weights["dense.weight"] = rng.normal(size=(3, 40))
    weights = {name: value.astype(np.float32) for name, value in weights.items()}

    def init(key):
        return Flat().init(key, x)

    with pytest.raises(ValueError, match=r"`flatten` must say .* `norm` are"):
        from_torch(init, weights)
    flatten = dict.fromkeys(("norm", "dense"), (4, 5, 2))
    variables = from_torch(init, weights, flatten=flatten)
    y = np.einsum("bhwi,oi->bohw", x, weights["conv.weight"][:, :, 0, 0])
    y = y.reshape(2, 40)  # channels first
    scale, bias, mean, var = (value for k, value in weights.items() if "norm" in k)
    y = (y - mean) / np.sqrt(var + 1e-5) * scale + bias
    y = y @ weights["dense.weight"].T
    np.testing.assert_allclose(Flat().apply(variables, x), y, rtol=1e-4, atol=1e-4)
    back = to_torch(init, weights, variables=variables, flatten=flatten)
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value)
    unflattened = dict.fromkeys(("norm", "dense"))
    other = from_torch(init, weights, flatten=unflattened)
    assert np.abs(Flat().apply(other, x) - y).max() > 0.1


class Net(nnx.Module):
    def __init__(self, **fields):
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.bn1 = jaxbn.nnx.BatchNorm(4, rngs=rngs, **fields)
        self.fc = nnx.Linear(4, 2, rngs=rngs)


def weights_of_net(rng, dtype=np.float32):
    shapes = {"conv1.weight": (4, 3, 3, 3), "conv1.bias": (4,), "fc.weight": (2, 4)}
    shapes |= {"fc.bias": (2,)}
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"bn1.{leaf}"] = (4,)
    found = {name: rng.normal(size=s).astype(dtype) for name, s in shapes.items()}
    return found | {"bn1.num_batches_tracked": np.array(7)}


@pytest.mark.parametrize(
    ("fields", "count"),
    [({"momentum": None}, 7), ({"debias": True}, 2**24), ({}, None)],
)
def test_the_counter_and_the_way_back(fields, count, rng):
    """After `nnx.jit` too, which loses the order of the layers."""
    weights = weights_of_net(rng)
    model = from_torch(Net(**fields), weights)
    if count is not None:
        assert np.all(model.bn1.count[...] == count)
    nnx.jit(lambda model: model.fc(jnp.ones((1, 4))))(model)
    back = to_torch(model, weights)
    assert list(back) == list(weights)
    for name, value in weights.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value)


class Unsorted(nnx.Module):
    """In order of its names, what follows `a` would be `c`, with other features."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.a = nnx.Conv(3, 4, (1, 1), rngs=rngs)
        self.m = nnx.Conv(4, 8, (1, 1), rngs=rngs)
        self.z = jaxbn.nnx.BatchNorm(8, rngs=rngs)
        self.c = nnx.Linear(8, 2, rngs=rngs)


@pytest.mark.parametrize("of_a_file", [False, True])
def test_an_order_that_is_lost_on_one_side_is_taken_from_the_other(of_a_file):
    """Else `c` would be asked for what was flattened."""
    shapes = {"a.weight": (4, 3, 1, 1), "a.bias": (4,), "m.weight": (8, 4, 1, 1)}
    shapes |= {"m.bias": (8,)}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    shapes |= {f"z.{leaf}": (8,) for leaf in norm}
    shapes |= {"c.weight": (2, 8), "c.bias": (2,)}
    weights = {name: np.ones(shape) for name, shape in shapes.items()}
    model = Unsorted()
    if of_a_file:  # integers first, and then by name
        weights = dict(sorted(weights.items(), key=lambda w: ("num" not in w[0], w[0])))
    else:
        nnx.jit(lambda model: model.c(jnp.ones((1, 8))))(model)
    from_torch(model, weights)
    assert np.all(model.c.kernel[...] == 1)


def aligned(value):
    """Where JAX on a CPU would share the memory."""
    room = np.empty(value.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    array = room[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    array[...] = value
    return array


def test_nothing_is_shared_and_nothing_is_changed_half(rng):
    weights = {name: aligned(value) for name, value in weights_of_net(rng).items()}
    model = from_torch(Net(), weights)
    mean = np.array(weights["bn1.running_mean"])
    for value in weights.values():
        value[...] = 0
    np.testing.assert_array_equal(model.bn1.mean[...], mean)
    back = to_torch(model, weights)
    back["bn1.running_mean"][...] = 1
    back["bn1.num_batches_tracked"][...] = 1
    np.testing.assert_array_equal(model.bn1.mean[...], mean)
    assert weights["bn1.num_batches_tracked"] == 0
    weights["fc.bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"`fc/bias` must have shape \(2,\)"):
        from_torch(model, weights)
    np.testing.assert_array_equal(model.bn1.mean[...], mean)


def test_values_take_the_dtype_of_the_model(rng):
    weights = weights_of_net(rng, np.float64)
    model = from_torch(Net(param_dtype=jnp.bfloat16), weights)
    assert model.bn1.scale.dtype == jnp.bfloat16
    rounded = weights["bn1.weight"].astype(jnp.bfloat16)
    np.testing.assert_array_equal(model.bn1.scale[...], rounded)
    assert to_torch(model, weights)["bn1.weight"].dtype == np.float64


def test_variables_of_another_model_are_refused(rng):
    x = jnp.ones((1, 3))
    dense = nn.Dense(2)
    weights = {"weight": np.zeros((2, 3)), "bias": np.zeros(2)}

    def init(key):
        return dense.init(key, x)

    other = nn.Dense(2, use_bias=False).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"it lacks \['params/bias'\]"):
        to_torch(init, weights, variables=other)
    with pytest.raises(ValueError, match="`variables` must have the values"):
        to_torch(init, weights)
