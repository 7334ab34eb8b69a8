# SPDX-License-Identifier: Apache-2.0
"""The errors of changing a model's norms: a call that raises each, its full text."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import bridge

import jaxbn.linen
import jaxbn.nnx

X = jnp.ones((4, 3))


class OwnLinen(nn.BatchNorm):
    """It does the arithmetic itself."""

    @nn.compact
    def __call__(self, x):
        return x - x.mean(0, keepdims=True)


class OwnNnx(nnx.BatchNorm):
    """Likewise, by the name of the class."""

    def __call__(self, x):
        return nnx.BatchNorm.__call__(self, x)


class WithActivation(nnx.BatchNorm):
    """An attribute that jaxbn's norm has too."""

    def __init__(self, rngs):
        super().__init__(3, rngs=rngs)
        self.activation = nnx.relu

    def __call__(self, x):
        return self.activation(super().__call__(x))


class OursWithMore(jaxbn.nnx.BatchNorm):
    """A subclass of jaxbn's norm."""


def model_of(*layers):
    """A layer that is fine, and then these."""
    return nnx.Sequential(nnx.BatchNorm(3, rngs=nnx.Rngs(0)), *layers)


def tree_of(model):
    return nnx.graphdef(model), nnx.to_pure_dict(nnx.state(model))


def of_nnx(verb, model, **how):
    """The error of a verb, after which the model is as it was."""
    before = tree_of(model)
    try:
        getattr(jaxbn.nnx, verb)(model, **how)
    finally:
        after = tree_of(model)
        assert after[0] == before[0]
        assert jax.tree.all(jax.tree.map(jnp.array_equal, after[1], before[1]))


def of_linen(verb, model, *, how=None, **call):
    start = {"use_running_average": True} if call else {}
    variables = model.init(jax.random.key(0), X, **start)
    apply = getattr(jaxbn.linen, verb)(model.apply, **(how or {}))
    apply(variables, X, mutable=["batch_stats"], **call)


def ours(**fields):
    return nnx.Sequential(jaxbn.nnx.BatchNorm(3, rngs=nnx.Rngs(0), **fields))


def frozen():
    model = ours()
    jaxbn.nnx.freeze(model)
    return model


def waiting():
    model = ours(momentum=None)
    jaxbn.nnx.begin_accumulation(model)
    return model


def restored_while_waiting():
    norm = jaxbn.linen.BatchNorm(use_running_average=False)
    variables = norm.init(jax.random.key(0), X)
    stats = jaxbn.linen.begin_accumulation(variables["batch_stats"])
    apply = jaxbn.linen.restore(norm.apply)
    apply({**variables, "batch_stats": stats}, X, mutable=["batch_stats"])


def in_linen():
    inner = nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=True)])
    return bridge.lazy_init(bridge.ToNNX(inner, rngs=nnx.Rngs(0)), X)


def linen_norm(**fields):
    return nn.Sequential([jaxbn.linen.BatchNorm(use_running_average=False, **fields)])


DEFAULT_FIX = "train without, or load the variables into Flax's for inference."

ERRORS = [
    (
        lambda: jaxbn.nnx.freeze({}),
        TypeError,
        "`model` must be an `nnx.Module`, got dict.",
    ),
    (
        lambda: jaxbn.linen.replace(nn.Dense(3)),
        TypeError,
        "`apply` must be a function that runs the model, such as `model.apply`, got Dense.",
    ),
    (
        lambda: jaxbn.linen.replace(jax.jit(lambda v, x: x)),
        ValueError,
        "`apply` must be the function before `jax.jit`, got a compiled one, whose norms may be traced already; compile what is returned.",
    ),
    (
        lambda: of_nnx("replace", nnx.Linear(3, 3, rngs=nnx.Rngs(0))),
        ValueError,
        "`model` must have a batch norm of `flax.nnx` or `jaxbn.nnx`, got none; give one that has.",
    ),
    (
        lambda: of_linen("restore", nn.Dense(3)),
        ValueError,
        "`apply` must have a batch norm of `flax.linen` or `jaxbn.linen`, got none; give one that has.",
    ),
    (
        lambda: of_nnx("synchronise", model_of(), axis_name="i"),
        ValueError,
        "`layers/0` must be a batch norm of jaxbn, got `BatchNorm`; replace it first: `jaxbn.nnx.replace(model)`.",
    ),
    (
        lambda: of_linen("freeze", nn.Sequential([nn.BatchNorm(True)])),
        ValueError,
        "`layers_0` must be a batch norm of jaxbn, got `flax.linen.BatchNorm`; replace it first: `freeze(jaxbn.linen.replace(apply))`.",
    ),
    (
        lambda: of_nnx("replace", model_of(in_linen())),
        ValueError,
        "`layers/1` must hold no batch norm that is out of reach, got one in `Sequential`; write that model in `flax.nnx`.",
    ),
    (
        lambda: of_linen(
            "replace", nn.Sequential([bridge.to_linen(nnx.BatchNorm, 3)])
        ),
        ValueError,
        "`layers_0` must hold no batch norm that is out of reach, got one in `ToLinen`; write that model in `flax.linen`.",
    ),
    (
        lambda: of_nnx("replace", model_of(OwnNnx(3, rngs=nnx.Rngs(0)))),
        ValueError,
        "`layers/1` must normalize by `super().__call__`, which is exchanged, got `OwnNnx`, whose own `__call__` does not.",
    ),
    (
        lambda: of_linen("replace", nn.Sequential([OwnLinen()])),
        ValueError,
        "`layers_0` must normalize by `super().__call__`, which is exchanged, got `OwnLinen`, whose own `__call__` does not.",
    ),
    (
        lambda: of_nnx("replace", model_of(WithActivation(nnx.Rngs(0)))),
        ValueError,
        "`layers/1` must have no attribute `activation`, which means something else in `jaxbn.nnx.BatchNorm`, got one in `WithActivation`; rename it.",
    ),
    (
        lambda: of_nnx("replace", model_of(nnx.BatchNorm(3, momentum=1.5, rngs=nnx.Rngs(0)))),
        ValueError,
        "`layers/1`: `momentum` must be in [0, 1], got 1.5; it weighs the old value, PyTorch's is 1 minus this.",
    ),
    (
        lambda: of_linen("replace", nn.Sequential([nn.BatchNorm(True, epsilon=-1.0)])),
        ValueError,
        "`layers_0`: `epsilon` must be finite and at least 0, got -1.0.",
    ),
    (
        lambda: of_nnx("restore", ours(unbiased=True, virtual_batch_size=4)),
        ValueError,
        f"`layers/0` must be a layer that Flax's batch norm can replace, got `BatchNorm` with virtual_batch_size=4, unbiased=True, which it does not have; {DEFAULT_FIX}",
    ),
    (
        lambda: of_nnx("restore", ours(debias=True, activation=jax.nn.relu)),
        ValueError,
        "`layers/0` must be a layer that Flax's batch norm can replace, got `BatchNorm` with activation, debias=True, which it does not have; leave `activation` None, and apply it after the layer.",
    ),
    (
        lambda: of_nnx("restore", frozen()),
        ValueError,
        "`layers/0` must be a layer that Flax's batch norm can replace, got `BatchNorm` with frozen=True, which it does not have; `unfreeze` it first.",
    ),
    (
        lambda: of_nnx("restore", waiting()),
        ValueError,
        "`layers/0` must be a layer that Flax's batch norm can replace, got `BatchNorm` with momentum=None, micro-batches that wait for `commit`, which it does not have; call `commit` first.",
    ),
    (
        restored_while_waiting,
        ValueError,
        "`.` must be a layer that Flax's batch norm can replace, got `BatchNorm` with micro-batches that wait for `commit`, which it does not have; call `commit` first.",
    ),
    (
        lambda: of_nnx("restore", jaxbn.nnx.BatchRenorm(3, rngs=nnx.Rngs(0))),
        ValueError,
        f"`.` must be a layer that Flax's batch norm can replace, got `BatchRenorm` with renorm, which it does not have; {DEFAULT_FIX}",
    ),
    (
        lambda: of_nnx("restore", OursWithMore(3, rngs=nnx.Rngs(0))),
        ValueError,
        f"`.` must be a layer that Flax's batch norm can replace, got `OursWithMore` with code of its own, which it does not have; {DEFAULT_FIX}",
    ),
    (
        lambda: of_linen("restore", linen_norm(momentum=None)),
        ValueError,
        f"`layers_0` must be a layer that Flax's batch norm can replace, got `BatchNorm` with momentum=None, which it does not have; {DEFAULT_FIX}",
    ),
    (
        lambda: of_linen(
            "restore",
            jaxbn.linen.BatchRenorm(),
            use_running_average=False,
            update_stats=False,
            residual=X,
            mask=X > 0,
        ),
        ValueError,
        f"`.` must be a layer that Flax's batch norm can replace, got `BatchRenorm` with renorm, update_stats=False, `mask`, `residual`, which it does not have; {DEFAULT_FIX}",
    ),
    (
        lambda: of_linen("freeze", linen_norm(activation=nn.PReLU())),
        ValueError,
        "`layers_0` must have no parameters but scale and bias to be frozen, got `activation=PReLU`; apply the activation after the layer.",
    ),
    (
        lambda: of_nnx("synchronise", ours(), axis_name=3),
        TypeError,
        "`axis_name` must be a string or a sequence of strings, got 3.",
    ),
    (
        lambda: of_linen(
            "synchronise",
            linen_norm(),
            how={"axis_name": None, "axis_index_groups": [[0]]},
        ),
        ValueError,
        "`axis_index_groups` must come with `axis_name`, got [[0]] and no name.",
    ),
]  # fmt: skip
