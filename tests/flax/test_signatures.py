# SPDX-License-Identifier: Apache-2.0
"""Constructor and call of Flax's modules: every argument, its place, kind and default.

Where Flax gains an argument, these fail until it is taken here.
"""

import inspect

import flax.linen as nn
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.nn import initializers

import jaxbn.linen
import jaxbn.nnx

OTHER_DEFAULTS = {
    "promote_dtype": None,  # Flax's would widen the output to the dtype of the params
    "bias_init": initializers.zeros,  # NNX has another spelling of the same
    "scale_init": initializers.ones,
}
PAIRS = {
    "linen": (nn.BatchNorm, jaxbn.linen.BatchNorm),
    "linen renorm": (nn.BatchNorm, jaxbn.linen.BatchRenorm),
    "nnx": (nnx.BatchNorm, jaxbn.nnx.BatchNorm),
}


@pytest.mark.parametrize("function", ["__init__", "__call__"])
@pytest.mark.parametrize(("theirs", "ours"), PAIRS.values(), ids=PAIRS)
def test_has_every_argument(theirs, ours, function):
    parameters = [
        inspect.signature(getattr(module, function)).parameters
        for module in (theirs, ours)
    ]
    for name, their in parameters[0].items():
        our = parameters[1][name]
        assert our.kind == their.kind, name
        if name in OTHER_DEFAULTS and our.default != their.default:
            assert our.default is OTHER_DEFAULTS[name], name
        else:
            assert our.default == their.default, name
    theirs, ours = (
        [name for name, p in of.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        for of in parameters
    )
    in_order = [name for name in theirs if name not in ("parent", "name")]
    assert ours[: len(in_order)] == in_order


def test_renorm_of_nnx_takes_them_by_keyword():
    norm = jaxbn.nnx.BatchRenorm(3, epsilon=0.5, rngs=nnx.Rngs(0))
    names = set(inspect.signature(nnx.BatchNorm.__init__).parameters) & set(vars(norm))
    fields = {name: getattr(norm, name) for name in names}
    again = jaxbn.nnx.BatchRenorm(**fields, rngs=nnx.Rngs(0))
    assert {name: getattr(again, name) for name in names} == fields


@pytest.mark.parametrize("module", [nnx.BatchNorm, jaxbn.nnx.BatchNorm])
def test_nnx_modules_have_the_attributes_of_flax(module):
    theirs = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    norm = module(3, rngs=nnx.Rngs(0))
    names = {name for name in vars(theirs) if not name.startswith("_")}
    assert names <= set(vars(norm))


def test_positional_arguments():
    ours, theirs = (
        module(True, -1, 0.5, 1e-3, jnp.bfloat16, jnp.float32, False, False)
        for module in (jaxbn.linen.BatchNorm, nn.BatchNorm)
    )
    for name in ("momentum", "epsilon", "dtype", "use_bias", "use_scale"):
        assert getattr(ours, name) == getattr(theirs, name)
