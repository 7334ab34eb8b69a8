# SPDX-License-Identifier: Apache-2.0
"""The errors of conversion: a call that raises each, its full text.

The other libraries are played by a few lines that have what is asked of them.
"""

import pickle
import sys
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import jaxbn.nnx
from jaxbn import convert

X = jnp.ones((1, 2))
NORM = ("weight", "bias", "running_mean", "running_var")


def linears(*sizes):
    layers = (nnx.Linear(a, b, rngs=nnx.Rngs(0)) for a, b in sizes)
    return nnx.Sequential(*layers)


def weights(*sizes, names="ab"):
    """Of linear layers, as PyTorch stores them."""
    return {
        f"{name}.{leaf}": np.zeros(shape, np.float32)
        for name, (a, b) in zip(names, sizes, strict=True)
        for leaf, shape in (("weight", (b, a)), ("bias", (b,)))
    }


def norm_weights(*names, dtype=np.float32):
    return {name: np.zeros(3, dtype) for name in (*NORM, *names)}


def norm(**fields):
    return jaxbn.nnx.BatchNorm(3, rngs=nnx.Rngs(0), **fields)


class _BatchNorm:
    eps, momentum = 1e-3, 0.1

    def named_modules(self):
        return [("", self)]

    def state_dict(self):
        return norm_weights()


class Linear:
    def named_modules(self):
        return [("", self)]

    def state_dict(self):
        return {"weight": np.zeros((3, 3)), "bias": np.zeros(3)}


class Unknown(nnx.Module):
    def __init__(self):
        self.w = nnx.Param(jnp.ones((2, 2)))


def of_torch(model, given, **how):
    convert.from_torch(model, given, **how)


def uneven_counts():
    layer = norm(momentum=None)
    layer.count[...] = jnp.array([1.0, 2.0, 2.0])
    given = norm_weights() | {"num_batches_tracked": np.int64(0)}
    convert.to_torch(layer, given)


def flattened(flatten):
    model = nnx.Sequential(
        nnx.Conv(3, 2, (1, 1), rngs=nnx.Rngs(0)), *linears((8, 3)).layers
    )
    given = {"conv.weight": np.zeros((2, 3, 1, 1)), "conv.bias": np.zeros(2)}
    of_torch(model, given | weights((8, 3), names=["fc"]), flatten=flatten)


@jax.tree_util.register_pytree_node_class
class BatchNorm:
    batch_state_index, mode = 0, "batch"

    def tree_flatten(self):
        return (), None

    @classmethod
    def tree_unflatten(cls, data, leaves):
        return cls()


def keras_of(*paths):
    variables = [SimpleNamespace(path=path) for path in paths]
    return SimpleNamespace(weights=variables, _flatten_layers=list)


def file_without(package, name):
    hidden = {package: None, f"{package}.numpy": None}
    with mock.patch.dict(sys.modules, hidden):
        convert.load_weights(name)


def file_with_code():
    load = mock.Mock(side_effect=pickle.UnpicklingError("no"))
    with mock.patch.dict(sys.modules, {"torch": SimpleNamespace(load=load)}):
        convert.load_weights("a.pth")


TWO = ((3, 3), (3, 3))
ERRORS = [
    (
        lambda: convert.from_torch(
            linears((2, 2)), weights((2, 2), names="a"), names=["a"]
        ),
        TypeError,
        "`names` must be a dict by the paths of layers, a function of a path or None, got list.",
    ),
    (
        lambda: convert.from_torch(
            linears((2, 2)), weights((2, 2), names="a"), flatten=(1, 2)
        ),
        TypeError,
        "`flatten` must be a dict by the paths of layers or None, got tuple.",
    ),
    (
        lambda: convert.from_haiku(
            norm(), {}, {"bn/~/var_ema": {"hidden": jnp.ones(3)}}
        ),
        ValueError,
        "`state` must have `average` and `counter` in `bn/~/var_ema`, as Haiku's `init` returns them, but it lacks ['average', 'counter']; give the whole state.",
    ),
    (
        lambda: of_torch({"params": {}}, weights((2, 2), names="a")),
        TypeError,
        "`model` must be an `nnx.Module`, or for Linen a function of a key that returns variables, such as `lambda key: model.init(key, x)`, got <class 'dict'>.",
    ),
    (
        lambda: of_torch(nn.Dense(3), weights((2, 3), names="a")),
        TypeError,
        "`model` must be an instance of `nnx.Module`, or for Linen a function of a key that returns variables, such as `lambda key: model.init(key, x)`, got <class 'flax.linen.linear.Dense'> itself.",
    ),
    (
        lambda: of_torch(lambda key: {"params": {}}, weights((2, 3), names="a")),
        ValueError,
        "`model` must call Linen's `init` itself, got a function in which no module is called: give `lambda key: model.init(key, x)` without `jax.jit`.",
    ),
    (
        lambda: convert.to_torch(norm(), norm_weights(), variables={}),
        ValueError,
        "`variables` must be None for an `nnx.Module`, which holds its own.",
    ),
    (
        lambda: convert.to_torch(nnx.eval_shape(norm), norm_weights()),
        ValueError,
        "`variables` must have the values to convert, got none for the network itself; give those of Linen, or an NNX model that was made without `eval_shape`.",
    ),
    (
        lambda: of_torch(Unknown(), {"w": np.zeros((2, 2))}),
        ValueError,
        "`model` must have its variables in layers of Flax's or jaxbn's that are known here (BatchNorm, Conv, ConvTranspose, Dense or Linear, Embed, LayerNorm, GroupNorm, RMSNorm, InstanceNorm), got others in ['the network itself']; convert those by hand.",
    ),
    (
        lambda: of_torch(linears((2, 3)), weights((2, 3), names="a"), names={"a": "b"}),
        ValueError,
        "`names` must have paths of layers as keys, got ['a']; the layers of `model` are ['layers/0'].",
    ),
    (
        lambda: of_torch(
            linears((2, 3)), weights((2, 3), names="a"), names={"layers/0": "c"}
        ),
        ValueError,
        "`names` must have layers of the weights as values, got {'layers/0': 'c'}; those of the weights are ['a'].",
    ),
    (
        lambda: of_torch(
            linears((2, 3)), weights((2, 3), (2, 3)), names=lambda path: "a"
        ),
        ValueError,
        "`names` must lead to each layer of the weights, but not to ['b']; take these out of the weights, or give weights of the same network.",
    ),
    (
        lambda: of_torch(norm(), Linear()),
        ValueError,
        "`names` must join layers of one kind, got the network itself, of kind batch_norm, and the network itself, of kind dense.",
    ),
    (
        lambda: of_torch(linears((2, 3)), weights((2, 4), names="a")),
        ValueError,
        "The weights must have the shapes of the layers of `model`, but for {'layers/0': (('bias', (3,)), ('kernel', (2, 3)))} there is none of these there, and for {'a': {'weight': (4, 2), 'bias': (4,)}} none here; check sizes, `use_bias`, `use_scale`, or give `names` for an error about each layer.",
    ),
    (
        lambda: of_torch(linears(*TWO), weights(*TWO, *TWO[:1], names="abc")),
        ValueError,
        "`names` must be given where `model` has 2 layers and the weights have 3: here ['layers/0', 'layers/1'], there ['a', 'b', 'c'].",
    ),
    (
        lambda: of_torch(
            linears((3, 3), (3, 2), (3, 2)),
            weights((3, 2), (3, 3), (3, 2), names="abc"),
        ),
        ValueError,
        '`names` must be given where the order of layers is not the same on both sides, got `layers/0` in the place of `a`; give `names`, such as `names={"stem/conv": "features.0"}`. An NNX model that went through `nnx.jit` or `nnx.merge` has lost the order of its layers.',
    ),
    (
        lambda: of_torch(linears(*TWO), weights(*TWO)),
        ValueError,
        '`names` must be given where order and shapes leave a doubt: `layers/0` and `layers/1` have the same shapes, and their names do not tell that they are `a` and `b`, in this order; if they are, give `names={"layers/0": "a"}`.',
    ),
    (
        lambda: of_torch(norm(use_bias=False, momentum=None), norm_weights("other")),
        ValueError,
        "The weights must have the variables of the layers of `model`, but ['num_batches_tracked'] is missing there, by torch's names, and ['bias', 'other'] has no variable here; check `use_bias`, `use_scale` and the momentum.",
    ),
    (
        lambda: of_torch(
            linears((2, 3)), weights((2, 4), names="a"), names={"layers/0": "a"}
        ),
        ValueError,
        "`layers/0/kernel` must have shape (2, 3), got (2, 4) from `a`, in the order of axes of `kernel`; check the sizes of this layer, and which layer `names` gives it.",
    ),
    (
        lambda: of_torch(norm(), norm_weights(dtype=np.complex64)),
        ValueError,
        "`scale` must have a complex `param_dtype` for the values of the network itself, which are complex64, got float32.",
    ),
    (
        lambda: of_torch(norm(), norm_weights(dtype=np.int8)),
        ValueError,
        "`scale` must have values of floating point, got int8 from the network itself; quantized weights are not converted.",
    ),
    (
        lambda: of_torch(norm(momentum=0.9, unbiased=True), _BatchNorm()),
        ValueError,
        "the network itself must have `epsilon=0.001`, as the network itself has, got 1e-05; make it as `BatchNorm(..., epsilon=0.001)` of jaxbn.",
    ),
    (
        lambda: convert.to_torch(
            linears(*TWO), weights((3, 3), names="a"), names=lambda path: "a"
        ),
        ValueError,
        "`names` must give each layer a place of its own, got `a` for `layers/0` and `layers/1`.",
    ),
    (
        uneven_counts,
        ValueError,
        "`count` must be the same for all features, which other libraries count together, got 1 to 2; choose one number, such as the largest.",
    ),
    (
        lambda: flattened(None),
        ValueError,
        '`flatten` must say what the 8 features of `layers/1` are. If they are a flattened array, give its shape without the batch, channels last, such as `flatten={"layers/1": (height, width, channels)}`; else `flatten={"layers/1": None}`.',
    ),
    (
        lambda: flattened({"fc": (2, 2, 2)}),
        ValueError,
        "`flatten` must have paths of Dense layers or norms as keys, got `fc`; those of `model` are ['layers/1'].",
    ),
    (
        lambda: flattened({"layers/1": (2, 3, 2)}),
        ValueError,
        "`flatten` must have the shape of 8 features for `layers/1`, got (2, 3, 2), which has 12.",
    ),
    (
        lambda: of_torch(norm(), [1.0]),
        TypeError,
        "`weights` must be a module of PyTorch, its `state_dict` or a file of one, got <class 'list'>.",
    ),
    (
        lambda: of_torch(norm(), {"state_dict": norm_weights(), "epoch": 3}),
        ValueError,
        "`weights` must have arrays by name, as a `state_dict` has, got {'state_dict': 'dict', 'epoch': 'int'}; if the `state_dict` is one of several entries of a checkpoint, give that one, such as `load_weights(path)[\"state_dict\"]`.",
    ),
    (
        lambda: convert.from_haiku(norm(), {"linear": jnp.ones(3)}, {}),
        TypeError,
        "`params` must have arrays by the names of modules and of their arrays, as Haiku's `init` returns them, got <class 'dict'>.",
    ),
    (
        lambda: convert.from_haiku(norm(), {}, {"ema": {"average": jnp.ones(3)}}),
        ValueError,
        "`state` must have averages of batch norms alone, got ['ema'] too; leave these out, and convert them by hand.",
    ),
    (
        lambda: convert.from_equinox(norm(), {}),
        TypeError,
        "`network` must be an Equinox module with arrays, got <class 'dict'>.",
    ),
    (
        lambda: convert.from_equinox(norm(), {"norm": BatchNorm()}),
        ValueError,
        "`state` must be given for the batch norm `norm`, got None; it is what `equinox.nn.make_with_state` returns with the network.",
    ),
    (
        lambda: convert.from_keras(norm(), []),
        TypeError,
        "`network` must be a built `keras.Model` with weights, got <class 'list'>; call it, or give it an `Input`, to build it.",
    ),
    (
        lambda: convert.from_keras(norm(), keras_of("a/kernel", "a/kernel")),
        ValueError,
        "`network` must have a path for each weight, got two of `a/kernel`; give one of their layers another `name`.",
    ),
    (
        lambda: convert.load_weights("weights.h5"),
        ValueError,
        "`path` must end in one of ('.safetensors', '.pth', '.pt', '.bin'), got '.h5'.",
    ),
    (
        lambda: file_without("safetensors", "a.safetensors"),
        ModuleNotFoundError,
        "`path` must be of a kind whose package is installed, got one that needs safetensors; `pip install safetensors`.",
    ),
    (
        file_with_code,
        ValueError,
        "`path` must be a file of weights alone, got 'a.pth', which `torch.load` does not read with `weights_only=True`; in the program that made it, save `model.state_dict()`.",
    ),
]
