# SPDX-License-Identifier: Apache-2.0
"""The libraries behind one interface, each used as its documentation says."""

import importlib
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.comparison.rules import RULES, debiased, of_deviations, running_average
from tests.comparison.scenarios import EPSILON, MAX_SCALE, MAX_SHIFT, MOMENTUM

AXIS = "shards"


class Library(NamedTuple):
    """A norm over NHWC: `make(channels, dtype, sync, rule)` returns state and `apply`.

    `apply(scale, bias, state, x, mask, train)` returns output and state; `stats(state)`
    the mean and variance of inference.
    """

    name: str
    package: str
    make: Callable[..., tuple[Any, Callable]]
    stats: Callable[[Any], tuple]
    convention: Callable
    masks: bool = False
    synchronises: bool = True
    groups: bool = False
    over: str = "shard_map"  # how its shards are mapped over
    rules: Mapping[str, Callable] = MappingProxyType({})  # of running statistics


def population(batches):
    """By `jaxbn.population`."""
    from jaxbn.population import estimate_linen

    norm = importlib.import_module("jaxbn.linen").BatchNorm(use_running_average=False)
    variables = norm.init(jax.random.key(0), jnp.asarray(batches[0]))

    def apply(variables, x):
        return norm.apply(variables, x, mutable=["batch_stats"])

    return estimate_linen(apply, variables, batches, progress=False)[0]["batch_stats"]


def linen(module):
    """`flax.linen.BatchNorm` or its drop-in."""

    def make(channels, dtype, sync, rule=None):
        fields = {"momentum": None if rule == "average" else MOMENTUM}
        if rule in ("debias", "unbiased"):
            fields[rule] = True
        kind = "BatchNorm"
        if rule == "renorm":
            kind, limits = (
                "BatchRenorm",
                {"max_scale": MAX_SCALE, "max_shift": MAX_SHIFT},
            )
            fields |= limits
        norm = getattr(importlib.import_module(module), kind)(
            epsilon=EPSILON, **fields, **sync
        )
        ours = module.startswith("jaxbn")

        def apply(scale, bias, state, x, mask, train):
            if mask is not None and not ours:  # broadcastable, says the documentation
                mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
            variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": state}
            options = {"use_running_average": not train, "mask": mask}
            y, new = norm.apply(variables, x, mutable=["batch_stats"], **options)
            return y, new.get("batch_stats", state)

        state = {"mean": jnp.zeros(channels), "var": jnp.ones(channels)}
        if rule in ("debias", "average"):
            state["count"] = jnp.zeros(())
        return state, apply

    return make


def nnx(channels, dtype, sync, rule=None):
    """`flax.nnx.BatchNorm`, split into graph and state."""
    from flax import nnx

    norm = nnx.BatchNorm(
        channels, momentum=MOMENTUM, epsilon=EPSILON, rngs=nnx.Rngs(0), **sync
    )
    graph, params, state = nnx.split(norm, nnx.Param, nnx.BatchStat)

    def apply(scale, bias, state, x, mask, train):
        given = jax.tree.unflatten(jax.tree.structure(params), [bias, scale])
        module = nnx.merge(graph, given, state, copy=True)
        if mask is not None:
            mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
        y = module(x, use_running_average=not train, mask=mask)
        return y, nnx.split(module, nnx.Param, nnx.BatchStat)[2]

    return state, apply


def haiku(channels, dtype, sync, rule=None):
    """`haiku.BatchNorm`, transformed."""
    import haiku as hk

    renamed = {"axis_name": "cross_replica_axis"}
    renamed |= {"axis_index_groups": "cross_replica_axis_index_groups"}
    options = {renamed[k]: v for k, v in sync.items()}

    def forward(options, x, train):
        norm = hk.BatchNorm(True, True, MOMENTUM, eps=EPSILON, **options)
        return norm(x, is_training=train)

    start = hk.transform_with_state(lambda x: forward({}, x, True))
    _, state = start.init(None, jnp.ones((2, 1, 1, channels), dtype))
    norm = hk.transform_with_state(lambda x, train: forward(options, x, train))

    def apply(scale, bias, state, x, mask, train):
        shape = (1, 1, 1, channels)
        params = {"scale": scale.reshape(shape), "offset": bias.reshape(shape)}
        return norm.apply({"batch_norm": params}, state, None, x, train)

    return state, apply


def haiku_stats(state):
    return tuple(
        state[f"batch_norm/~/{name}_ema"]["average"].ravel() for name in ("mean", "var")
    )


def equinox(channels, dtype, sync, rule=None):
    """`equinox.nn.BatchNorm(mode="batch")`, mapped over the examples."""
    import equinox as eqx

    names = ("examples", sync["axis_name"]) if sync else "examples"
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
        channels, names, eps=EPSILON, momentum=MOMENTUM, mode="batch"
    )

    def apply(scale, bias, state, x, mask, train):
        module = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (scale, bias))
        module = eqx.nn.inference_mode(module, not train)
        axes = (0, None)
        mapped = jax.vmap(module, axes, axes, axis_name="examples")
        y, state = mapped(x.transpose(0, 3, 1, 2), state)
        return y.transpose(0, 2, 3, 1), state

    return state, apply


def equinox_stats(state):
    """As inference takes them: divided by the weight of the batches seen."""
    leaves = jax.tree.leaves(state)
    count = next(a for a in leaves if a.ndim == 0)
    mean, var = (a for a in leaves if a.ndim == 1)
    seen = 1 - MOMENTUM ** np.asarray(count, float)
    return mean / seen, var / seen


def keras(channels, dtype, sync, rule=None):
    """`keras.layers.BatchNormalization` on JAX, stateless."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    half = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
    policy = half.get(str(dtype), str(dtype))
    keras.config.set_floatx("float64" if policy == "float64" else "float32")
    options = {"momentum": MOMENTUM, "epsilon": EPSILON, "dtype": policy}
    if rule == "renorm":
        clipping = {"rmax": MAX_SCALE, "rmin": 1 / MAX_SCALE, "dmax": MAX_SHIFT}
        options |= {"renorm": True, "renorm_clipping": clipping}
        options["renorm_momentum"] = MOMENTUM
    layer = keras.layers.BatchNormalization(**options)
    layer.build((None, None, None, channels))

    def apply(scale, bias, state, x, mask, train):
        options = {}
        if mask is not None:  # of one axis less than x, says the documentation
            mask = mask.reshape(mask.shape + (1,) * (x.ndim - 1 - mask.ndim))
            options["mask"] = jnp.broadcast_to(mask, x.shape[:-1])
        return layer.stateless_call([scale, bias], state, x, training=train, **options)

    return [jnp.asarray(v.value) for v in layer.non_trainable_variables], apply


JAX_LIBRARIES = [
    Library("jaxbn", "jaxbn", linen("jaxbn.linen"), lambda s: (s["mean"], s["var"]),
            running_average, masks=True, groups=True, rules=RULES),
    Library("flax.linen", "flax", linen("flax.linen"),
            lambda s: (s["mean"], s["var"]), running_average, masks=True, groups=True),
    Library("flax.nnx", "flax", nnx, lambda s: (s["mean"][...], s["var"][...]),
            running_average, masks=True, groups=True),
    Library("haiku", "dm-haiku", haiku, haiku_stats, debiased, groups=True,
            rules={"debias": debiased}),
    Library("equinox", "equinox", equinox, equinox_stats, debiased, over="vmap",
            rules={"debias": debiased}),
    Library("keras", "keras", keras, lambda s: tuple(s[:2]), running_average,
            masks=True, synchronises=False, rules={"renorm": of_deviations}),
]  # fmt: skip
