# SPDX-License-Identifier: Apache-2.0
"""A net of three norms, in Linen and in NNX, healthy: a fault is then planted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
from jaxbn.convert import from_linen

WIDTHS = (16, 12, 8)
MOMENTUM = 0.9
STEPS = 60


class LinenNet(nn.Module):
    """Dense, norm, ReLU, three times."""

    norm: type = jaxbn.linen.BatchNorm
    use_bias: bool = False
    dropout: float = 0.0
    always: int | None = None  # this one normalizes by the batch in inference too
    dtype: str | None = None

    @nn.compact
    def __call__(self, x, train=True):
        for k, width in enumerate(WIDTHS):
            if k == 1 and self.dropout:
                x = nn.Dropout(self.dropout, deterministic=True, name="dropout")(x)
            dense = nn.Dense(
                width, use_bias=self.use_bias, dtype=self.dtype, name=f"dense{k}"
            )
            norm = self.norm(
                use_running_average=not train and k != self.always,
                momentum=MOMENTUM,
                dtype=self.dtype,
                name=f"norm{k}",
            )
            x = nn.relu(norm(dense(x)))
        return x


class NnxNet(nnx.Module):
    """The same, without options."""

    def __init__(self, norm=jaxbn.nnx.BatchNorm):
        rngs = nnx.Rngs(0)
        for k, (size, width) in enumerate(zip((5, *WIDTHS), WIDTHS, strict=False)):
            dense = nnx.Linear(size, width, use_bias=False, rngs=rngs)
            setattr(self, f"dense{k}", dense)
            setattr(self, f"norm{k}", norm(width, momentum=MOMENTUM, rngs=rngs))

    def __call__(self, x):
        for k in range(len(WIDTHS)):
            x = nnx.relu(getattr(self, f"norm{k}")(getattr(self, f"dense{k}")(x)))
        return x


def make_batches(number=8, size=64, seed=0):
    """Examples that are away from 0."""
    rng = np.random.default_rng(seed)
    draw = rng.standard_gamma(2.0, (number, size, 5))
    return list(jnp.asarray(draw, jnp.float32))


@functools.cache
def _healthy():
    net = LinenNet()
    batches = make_batches(STEPS, seed=1)
    variables = jax.jit(net.init)(jax.random.key(0), batches[0])

    @jax.jit
    def step(variables, x):
        _, updates = net.apply(variables, x, mutable=["batch_stats"])
        return {**variables, **updates}

    for x in batches:
        variables = step(variables, x)
    return variables


def healthy():
    """Variables whose running statistics are those of training, to be changed."""
    return jax.tree.map(lambda a: a, _healthy())


def diagnosed(variables, batches=None, *, net=None, **how):
    """The diagnosis of the Linen net."""
    net = net or LinenNet()

    def apply(variables, x):
        return net.apply(variables, x, mutable=["batch_stats"])

    def infer(variables, x):
        return net.apply(variables, x, train=False, mutable=["batch_stats"])[0]

    how.setdefault("infer", infer)
    how.setdefault("steps", STEPS)
    batches = make_batches() if batches is None else batches
    return jaxbn.linen.diagnose(apply, variables, batches, **how)


def nnx_model(variables, norm=jaxbn.nnx.BatchNorm):
    """The NNX net with these variables."""
    model = NnxNet(norm)
    from_linen(model, variables)
    return model
