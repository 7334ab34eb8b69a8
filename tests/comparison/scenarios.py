# SPDX-License-Identifier: Apache-2.0
"""What the libraries are compared on: batches, masks, shards, and the truth of them."""

import zlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from tests import oracle
from tests.cases import DTYPES

EPSILON = 1e-5
MOMENTUM = 0.9  # PyTorch's is 1 minus this
SHARDS = 4
MAX_SCALE, MAX_SHIFT = 1.5, 4.0  # of batch renorm's corrections


class Scenario(NamedTuple):
    """Some training steps, and then inference, of one batch norm."""

    title: str
    shape: tuple[int, ...] = (64, 4, 4, 8)
    dtype: str = "float32"
    mean: float = 0.0
    deviation: float = 1.0
    mask: str | None = None
    padding: float = 0.0  # what stands where nothing counts
    outlier: float = 0.0  # added to the first position of each batch
    explicit: bool = False  # cut over a mesh of JAX's default kind, under `jit`
    shards: int = 1
    groups: tuple[tuple[int, ...], ...] | None = None
    steps: int = 3
    drift: float = 0.0  # of the mean from step to step
    refuse: bool = False  # right is an error, or a warning
    rule: str | None = None  # of the running statistics, where not the library's own

    def limit(self, quantity: str) -> float:
        """What a right result is off at most; running statistics are float32."""
        rounding = 4 * float(jnp.finfo(DTYPES[self.dtype]).eps)
        if self.dtype == "float64":
            return 1e-5 if quantity in ("statistics", "evaluation") else 1e-12
        return max(rounding, 1e-5)


SCENARIOS = [
    Scenario("float32"),
    Scenario("float64", dtype="float64"),
    Scenario("bfloat16", dtype="bfloat16"),
    Scenario("float16", dtype="float16"),
    Scenario("mean / sd 1e2", mean=1e2),
    Scenario("mean / sd 1e3", mean=1e3),
    Scenario("mean / sd 1e4", mean=1e4),
    Scenario("mean 100, sd 0.01", mean=1e2, deviation=1e-2),
    Scenario("the first of 1024 values at 1e4 sd", outlier=1e4),
    Scenario("sd 1e13", deviation=1e13),
    Scenario("bfloat16, mean / sd 100", dtype="bfloat16", mean=100.0),
    Scenario("float16, mean / sd 300", dtype="float16", mean=300.0),
    Scenario("constant channels of 17.7", mean=17.7, deviation=0.0),
    Scenario("one value per channel", shape=(1, 1, 1, 8), refuse=True),
    Scenario("empty batch", shape=(0, 4, 4, 8)),
    Scenario("evaluation after 1 step", steps=1, mean=5.0, deviation=2.0),
    Scenario("evaluation after 10 steps", steps=10, mean=5.0, deviation=2.0),
    Scenario("evaluation after 100 steps", steps=100, mean=5.0, deviation=2.0),
    Scenario("without initial values, 1 step", steps=1, mean=5.0, rule="debias"),
    Scenario("without initial values, 10 steps", steps=10, mean=5.0, rule="debias"),
    Scenario("plain average of 10 steps", steps=10, mean=5.0, rule="average"),
    Scenario("unbiased variance", shape=(3, 1, 1, 8), mean=5.0, rule="unbiased"),
    Scenario("batch renorm", mean=4.0, deviation=2.0, rule="renorm"),
    Scenario("statistics of the population", drift=2.0, rule="population"),
    Scenario("masked examples", mask="ragged"),
    Scenario("masked positions", mask="positions"),
    Scenario("mask of integers", mask="integers"),
    Scenario("weights", mask="weights"),
    Scenario("padding of 1e6", mask="ragged", padding=1e6),
    Scenario("padding of NaN", mask="ragged", padding=np.nan),
    Scenario("nothing counts", mask="nothing"),
    Scenario("Explicit mesh of 4 devices, jit", explicit=True),
    Scenario("4 shards", shards=SHARDS),
    Scenario("4 shards, mean / sd 1e3", shards=SHARDS, mean=1e3),
    Scenario("4 shards, uneven counts", shards=SHARDS, mask="uneven"),
    Scenario("4 shards, one empty", shards=SHARDS, mask="one empty"),
    Scenario("2 groups of 2 shards", shards=SHARDS, groups=((0, 1), (2, 3))),
]


class Truth(NamedTuple):
    """What a right library gives, in float64."""

    output: np.ndarray
    gradients: tuple[np.ndarray, ...]  # of x, scale, bias
    mean: np.ndarray  # of inference, after all steps
    var: np.ndarray
    evaluated: np.ndarray  # the first batch in inference


class Data(NamedTuple):
    """The arrays of a scenario."""

    batches: np.ndarray  # (steps, *shape)
    mask: np.ndarray | None  # (b,), (b, h, w) or None
    dy: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


def make_mask(kind, shape, rng):
    """The same in every step."""
    b = shape[0]
    index = np.arange(b)
    shard, place = np.divmod(index, max(b // SHARDS, 1))
    match kind:
        case None:
            return None
        case "ragged":
            return index < b - b // 4
        case "positions":
            return rng.random(shape[:-1]) < 0.6
        case "integers":
            return (rng.random(shape[:-1]) < 0.6).astype(np.int32)
        case "weights":
            return rng.uniform(0, 2, b).astype(np.float32)
        case "nothing":
            return np.zeros(b, bool)
        case "uneven":
            return place <= 5 * shard
        case "one empty":
            return shard < SHARDS - 1


def make(scenario: Scenario) -> Data:
    """Draws the arrays, the same in every run; shards differ in mean."""
    rng = np.random.default_rng(zlib.crc32(scenario.title.encode()))
    shape, dtype = scenario.shape, DTYPES[scenario.dtype]
    normal = rng.normal(size=(scenario.steps, *shape))
    if scenario.shards > 1:
        apart = np.repeat(np.arange(scenario.shards), shape[0] // scenario.shards)
        normal = normal + apart[:, None, None, None]
    means = scenario.mean + scenario.drift * np.arange(scenario.steps)
    batches = means[:, None, None, None, None] + scenario.deviation * normal
    batches[:, :1, :1, :1] += scenario.outlier * scenario.deviation
    batches = batches.astype(dtype)
    mask = make_mask(scenario.mask, shape, rng)
    if mask is not None and scenario.padding != 0:
        batches[:, mask == 0] = scenario.padding
    wide = np.float64 if scenario.dtype == "float64" else np.float32
    scale, bias = rng.normal(size=(2, shape[-1])).astype(wide)
    dy = rng.normal(size=shape).astype(dtype)
    if mask is not None:
        dy[mask == 0] = 0  # a loss leaves out what does not count
    return Data(batches, mask, dy, scale, bias)


def parts(scenario: Scenario):
    """The examples that share statistics."""
    index = np.arange(scenario.shape[0]).reshape(scenario.shards, -1)
    groups = scenario.groups or (tuple(range(scenario.shards)),)
    return [index[list(group)].ravel() for group in groups]


def truth(scenario: Scenario, data: Data, convention) -> Truth:
    """By the oracle; the running statistics by the library's own convention."""
    output = np.zeros(scenario.shape)
    dx = np.zeros(scenario.shape)
    dscale, dbias = np.zeros_like(data.scale), np.zeros_like(data.bias)
    for examples in parts(scenario):
        one = batch_norm(data, 0, examples)
        ratio, apart = 1.0, 0.0
        if scenario.rule == "renorm":
            ratio, apart = renorm_corrections(one, convention)
            scale, bias = data.scale * ratio, data.bias + data.scale * apart
            one = batch_norm(data._replace(scale=scale, bias=bias), 0, examples)
        output[examples] = one.forward().y
        gradients, _ = one.backward(data.dy[examples])
        dx[examples] = gradients.x
        dscale = dscale + ratio * gradients.scale + apart * gradients.bias
        dbias = dbias + gradients.bias
    first = parts(scenario)[0]
    moments = [batch_norm(data, k, first).forward()[1:] for k in range(scenario.steps)]
    mean, var = convention(moments)
    x = data.batches[0].astype(np.float64)
    evaluated = (x - mean) / np.sqrt(var + EPSILON) * data.scale + data.bias
    return Truth(output, (dx, dscale, dbias), mean, var, evaluated)


def renorm_corrections(one: oracle.BatchNorm, convention):
    """r and d of Ioffe 2017 in the first step: the running statistics are 0 and 1."""
    first = getattr(convention, "first_deviation", np.sqrt(1 + EPSILON))
    ratio, apart = np.sqrt(one.var + EPSILON) / first, one.mean / first
    ratio = np.clip(ratio, 1 / MAX_SCALE, MAX_SCALE)
    return ratio, np.clip(apart, -MAX_SHIFT, MAX_SHIFT)


def batch_norm(data: Data, step: int, examples) -> oracle.BatchNorm:
    """The oracle of one part of one batch."""
    mask = None if data.mask is None else data.mask[examples]
    x = data.batches[step][examples]
    return oracle.BatchNorm(x, data.scale, data.bias, epsilon=EPSILON, mask=mask)
