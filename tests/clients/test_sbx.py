# SPDX-License-Identifier: Apache-2.0
"""sbx-rl's CrossQ, reinforcement learning with a batch renorm of its own in each layer.

sbx writes its `BatchRenorm` from parts of Flax's `BatchNorm`. Its constructor is not
that of `jaxbn.linen.BatchRenorm`, so the exchange needs the adapter below: `epsilon` is
0.001, and the limits are 1 and 0 (a plain batch norm) for `warmup_steps` updates, then
3 and 5 at once. sbx keeps the limits and the number of updates in `batch_stats`.

- In the warm-up, 100,000 updates by default, both programs are equal within rounding:
  `vmap` over two critics, running statistics in the target's pass, Adam.
- After it they differ by epsilon: the paper's output is r (x - mean) / sqrt(var +
  epsilon) + d, sbx computes (x - mean + d sqrt(var) / r) / sqrt(var / r^2 + epsilon).
  Without epsilon the layers are equal, gradients included.
- A feature that is constant in a batch, such as a dead ReLU, has NaN as its gradient in
  sbx, in the warm-up too: the derivative of sqrt(var) at 0, times 0. jaxbn's is finite.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxbn.linen
from tests.clients.comparing import LINEN, compare, difference, version, watched
from tests.tolerance import unit

pytestmark = pytest.mark.clients

RANDOM, UPDATES, BATCH = 100, 40, 64


class Adapter(jaxbn.linen.BatchRenorm):
    """jaxbn's layer with sbx's constructor, call and variables."""

    epsilon: float = 0.001
    warmup_steps: int = 100_000

    @nn.compact
    def __call__(self, x, use_running_average=None):
        start = {"r_max": 3, "d_max": 5, "steps": 0}
        kept = {
            name: self.variable("batch_stats", name, lambda value=value: value)
            for name, value in start.items()
        }
        warm = kept["steps"].value >= self.warmup_steps
        y = super().__call__(
            x,
            use_running_average,
            max_scale=jnp.where(warm, 1.0 * kept["r_max"].value, 1.0),
            max_shift=jnp.where(warm, 1.0 * kept["d_max"].value, 0.0),
        )
        given = (self.use_running_average, use_running_average)
        training = not nn.merge_param("use_running_average", *given)
        if training and not self.is_initializing():
            kept["steps"].value += 1
        return y


Adapter.__name__ = Adapter.__qualname__ = "BatchRenorm"  # names of scopes


@pytest.fixture
def sbx(monkeypatch):
    """Its probability distributions are JAX's, but look for TensorFlow's Keras too."""
    if "sbx" not in sys.modules:
        monkeypatch.setitem(sys.modules, "tensorflow", None)
    import sbx

    return sbx


def exchange(monkeypatch, name):
    """The program's norm, the same with an accurate variance, or jaxbn's."""
    from flax.linen import normalization
    from sbx.common import jax_layers
    from sbx.crossq import policies

    theirs, compute = jax_layers.BatchRenorm, normalization._compute_stats

    def in_two_passes(*args, **kwargs):
        return compute(*args, **kwargs, use_fast_variance=False)

    stats = in_two_passes if name == "two passes" else compute
    monkeypatch.setattr(jax_layers, "_compute_stats", stats)
    monkeypatch.setattr(policies, "BatchRenorm", Adapter if name == "jaxbn" else theirs)


def train(sbx, **policy):
    """The run of `watched`: variables, numbers before and after training."""
    agent = sbx.CrossQ(
        "MlpPolicy",
        "Pendulum-v1",
        seed=0,
        learning_starts=RANDOM,
        batch_size=BATCH,
        policy_kwargs={"net_arch": [32, 32], **policy},
    )

    def variables():
        states = {"actor": agent.policy.actor_state, "critic": agent.policy.qf_state}
        return {
            kind: {name: getattr(state, kind) for name, state in states.items()}
            for kind in ("params", "batch_stats")
        }

    start, losses = jax.device_get(variables()), []

    def note(*_):
        if "train/critic_loss" in agent.logger.name_to_value:
            losses.append(agent.logger.name_to_value["train/critic_loss"])
        return True

    agent.learn(RANDOM + UPDATES, callback=note, log_interval=None)
    watch = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    actions, _ = agent.predict(watch, deterministic=True)
    critic = agent.policy.qf_state
    weights = {"params": critic.params, "batch_stats": critic.batch_stats}
    outputs = {
        "actions": actions,
        "critics": critic.apply_fn(weights, watch, jnp.asarray(actions), train=False),
    }
    first = {"first loss": np.float32(losses[0])}
    values = {"losses": np.float32(losses), "outputs": outputs}
    return start, variables(), first, values


def test_crossq_in_its_warm_up(sbx, monkeypatch, table):
    runs = {}
    for name in LINEN:
        exchange(monkeypatch, name)
        runs[name] = watched(lambda: train(sbx))
    table(compare(f"{version('sbx-rl')} CrossQ", UPDATES, runs))


def layers(sbx, **fields):
    """sbx's layer and jaxbn's, warm from the start."""
    from sbx.common.jax_layers import BatchRenorm

    fields |= {"use_running_average": False, "momentum": 0.9, "warmup_steps": 0}
    return BatchRenorm(**fields), Adapter(**fields)


def steps(layer, batches, target):
    """Outputs, gradients and statistics of a few batches."""
    variables = layer.init(jax.random.key(0), batches[0])

    @jax.jit
    def step(variables, x):
        def loss(params, x):
            y, new = layer.apply(
                {**variables, "params": params}, x, mutable=["batch_stats"]
            )
            return jnp.mean(y * target), (y, new)

        find = jax.grad(loss, argnums=(0, 1), has_aux=True)
        gradients, (y, new) = find(variables["params"], x)
        return {**variables, **new}, (y, gradients)

    found = []
    for x in batches:
        variables, outputs = step(variables, x)
        found.append(outputs)
    return found, variables["batch_stats"]


def batches(deviation):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(8, 1, 5))
    x = (means + rng.normal(size=(8, 32, 5))) * deviation
    return jnp.asarray(x, jnp.float32), jnp.asarray(
        rng.normal(size=(32, 5)), jnp.float32
    )


def test_layers_are_equal_without_epsilon(sbx):
    theirs, ours = (steps(layer, *batches(1)) for layer in layers(sbx, epsilon=0.0))
    assert difference(theirs, ours) < 100 * unit(np.float32)


def test_epsilon_is_where_the_paper_has_it(sbx):
    """In float64: sbx's place for it, and the paper's."""
    x, target = batches(0.03)
    epsilon = 0.001
    mean, var = np.zeros(5), np.ones(5)
    for batch in np.asarray(x, np.float64):
        m, v = batch.mean(0), batch.var(0)
        r = np.clip(np.sqrt((v + epsilon) / (var + epsilon)), 1 / 3, 3)
        d = np.clip((m - mean) / np.sqrt(var + epsilon), -5, 5)
        paper = (batch - m) / np.sqrt(v + epsilon) * r + d
        as_in_sbx = (batch - m + d * np.sqrt(v) / r) / np.sqrt(v / r**2 + epsilon)
        mean, var = 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v
    theirs, ours = layers(sbx, epsilon=epsilon)
    for layer, expected in ((theirs, as_in_sbx), (ours, paper)):
        (*_, (y, _)), _ = steps(layer, x, target)
        np.testing.assert_allclose(y, expected, rtol=0, atol=100 * unit(np.float32))
    assert np.abs(paper - as_in_sbx).max() > 0.01


def test_gradient_at_a_constant_feature(sbx):
    x, target = batches(1)
    x = x.at[..., 0].set(0)
    for warmup in (0, 100):
        for layer, finite in zip(layers(sbx), (False, True), strict=True):
            found, _ = steps(layer.clone(warmup_steps=warmup), x, target)
            _, (_, gradient) = found[-1]
            assert np.isfinite(gradient[..., 0]).all() == finite
            assert np.isfinite(gradient[..., 1:]).all()
