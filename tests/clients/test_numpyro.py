# SPDX-License-Identifier: Apache-2.0
"""NumPyro's `flax_module`, `random_flax_module` and `nnx_module` with batch norm.

NumPyro has no program of its own with a norm, so a regression is trained here by its
stochastic variational inference: batch norm's statistics travel as its mutable state,
dropout draws from its keys, and the weights are points or, in `random_flax_module`,
normal distributions that are sampled in each step.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from tests.clients.comparing import LINEN, NNX, compare, version, watched

pytestmark = pytest.mark.clients

STEPS = 100
ROWS, FEATURES, WIDTH = 256, 8, 32


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (ROWS, FEATURES)).astype(np.float32)
    y = np.sin(x[:, 0]) + x[:, 1] * x[:, 2] / 9 + rng.normal(0, 0.1, ROWS)
    return jnp.asarray(x), jnp.asarray(y, jnp.float32)


class Net(nn.Module):
    """A hidden layer with batch norm and dropout."""

    norm: type[nn.Module]

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(WIDTH, use_bias=False)(x)  # the norm has one
        x = self.norm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(0.1, deterministic=not train)(nn.relu(x))
        return nn.Dense(1)(x)[..., 0]


def flax_module(norm):
    """Weights are points."""
    from numpyro.contrib.module import flax_module

    net = Net(norm)

    def declare(x):
        return flax_module(
            "net", net, x, apply_rng=["dropout"], mutable=["batch_stats"]
        )

    return net, declare


def random_flax_module(norm):
    """Weights are distributions."""
    from numpyro import distributions as dist
    from numpyro.contrib.module import random_flax_module

    net = Net(norm)

    def declare(x):
        return random_flax_module(
            "net",
            net,
            dist.Normal(0, 1),
            x,
            apply_rng=["dropout"],
            mutable=["batch_stats"],
        )

    return net, declare


def train(net, declare):
    """The run of `watched`: variables, numbers before and after training."""
    import numpyro
    from numpyro import distributions as dist
    from numpyro.infer import SVI, Trace_ELBO, autoguide

    x, y = data()

    def model(x, y):
        predict = declare(x)
        mean = predict(x, rngs={"dropout": numpyro.prng_key()})
        with numpyro.plate("rows", ROWS):
            numpyro.sample("y", dist.Normal(mean, 0.1), obs=y)

    guide = autoguide.AutoNormal(model, init_scale=0.01)
    svi = SVI(model, guide, numpyro.optim.Adam(1e-2), Trace_ELBO())
    state = svi.init(jax.random.key(1), x, y)

    def variables(state):
        params = svi.get_params(state)
        stats = state.mutable_state["net$state"]["batch_stats"]
        return {"params": params, "batch_stats": stats}

    start, losses, step = variables(state), [], jax.jit(svi.update)
    for _ in range(STEPS):
        state, loss = step(state, x, y)
        losses.append(loss)
    end = variables(state)
    weights = end["params"]["net$params"]
    if "net/Dense_0.kernel_auto_loc" in end["params"]:
        means = svi.guide.median(end["params"])
        weights = {}
        for name, value in means.items():
            layer, leaf = name.removeprefix("net/").split(".")
            weights.setdefault(layer, {})[leaf] = value
    stats = end["batch_stats"]
    outputs = net.apply({"params": weights, "batch_stats": stats}, x, train=False)
    values = {"losses": jnp.stack(losses), "last loss": losses[-1], "outputs": outputs}
    return start, end, {"first loss": losses[0]}, values


class NNXNet(nnx.Module):
    """The same without dropout, whose counters are no numbers to compare."""

    def __init__(self, norm):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(FEATURES, WIDTH, use_bias=False, rngs=rngs)
        self.norm = norm(WIDTH, momentum=0.9, rngs=rngs)
        self.last = nnx.Linear(WIDTH, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.hidden(x))))[..., 0]


def train_nnx(norm):
    """As `train`, by `nnx_module`, in which the program makes the module."""
    import numpyro
    from numpyro import distributions as dist
    from numpyro.contrib.module import nnx_module
    from numpyro.infer import SVI, Trace_ELBO

    x, y = data()
    net = NNXNet(norm)

    def model(x, y):
        mean = nnx_module("net", net)(x)
        with numpyro.plate("rows", ROWS):
            numpyro.sample("y", dist.Normal(mean, 0.1), obs=y)

    svi = SVI(model, lambda x, y: None, numpyro.optim.Adam(1e-2), Trace_ELBO())
    state = svi.init(jax.random.key(1), x, y)

    def variables(state):
        stats = state.mutable_state["net$state"]["state"]
        return {"params": svi.get_params(state), "batch_stats": stats}

    start, losses, step = variables(state), [], jax.jit(svi.update)
    for _ in range(STEPS):
        state, loss = step(state, x, y)
        losses.append(loss)
    end = variables(state)
    graph, params, stats = nnx.split(net, nnx.Param, nnx.BatchStat)
    nnx.replace_by_pure_dict(params, end["params"]["net$params"])
    nnx.replace_by_pure_dict(stats, end["batch_stats"])
    trained = nnx.merge(graph, params, stats)
    trained.eval()
    values = {
        "losses": jnp.stack(losses),
        "last loss": losses[-1],
        "outputs": trained(x),
    }
    return start, end, {"first loss": losses[0]}, values


@pytest.mark.parametrize("declared", [flax_module, random_flax_module])
def test_linen(declared, table):
    runs = {
        name: watched(lambda norm=norm: train(*declared(norm)))
        for name, norm in LINEN.items()
    }
    table(compare(f"{version('numpyro')} {declared.__name__}", STEPS, runs))


def test_nnx(table):
    runs = {
        name: watched(lambda norm=norm: train_nnx(norm)) for name, norm in NNX.items()
    }
    table(compare(f"{version('numpyro')} nnx_module", STEPS, runs))
