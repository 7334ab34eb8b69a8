# SPDX-License-Identifier: Apache-2.0
"""A training step of one batch norm layer, in each library."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from experiments.bench.timing import LIBRARIES, Benchmark, has_torch
from experiments.config import BenchConfig

AXIS = "shards"


class LayerCase(NamedTuple):
    """One row of the table: what the step does."""

    title: str
    backward: bool = False
    relu: bool = False
    masked: bool = False
    shards: int = 1
    segments: int | None = None


CASES = [
    LayerCase("forward"),
    LayerCase("forward + backward", backward=True),
    LayerCase("forward, ReLU", relu=True),
    LayerCase("forward + backward, ReLU", backward=True, relu=True),
    LayerCase("forward, masked", masked=True),
    LayerCase("forward + backward, masked", backward=True, masked=True),
    LayerCase("forward, 8 segments", segments=8),
    LayerCase("forward + backward, 8 segments", backward=True, segments=8),
    LayerCase("forward, 2 devices synchronised", shards=2),
    LayerCase("forward + backward, 2 devices synchronised", backward=True, shards=2),
]


def benchmarks(config: BenchConfig) -> Iterator[Benchmark]:
    """Yields every case, set up when its turn comes."""
    for case in CASES:
        steps = {name: make_step(name, case, config) for name in LIBRARIES}
        yield Benchmark(case.title, {name: s for name, s in steps.items() if s})


def make_step(
    library: str, case: LayerCase, config: BenchConfig
) -> Callable[[], Any] | None:
    """Returns the function to time; None if library or feature is missing."""
    rng = np.random.default_rng(config.seed)
    x, dy = rng.normal(size=(2, *config.shape)).astype(np.float32)
    mask = np.arange(config.shape[0]) < max(1, 3 * config.shape[0] // 4)
    if library == "torch":
        fits = jax.default_backend() == "cpu" and config.dtype == "float32"
        able = has_torch() and not (case.masked or case.segments)
        able = able and case.shards == 1
        return _torch_step(case, x, dy) if able and fits else None
    if case.shards > jax.device_count() or (case.segments and library != "jaxbn"):
        return None
    module = importlib.import_module(f"{library}.linen").BatchNorm
    fused = {"activation": jax.nn.relu} if library == "jaxbn" and case.relu else {}
    segments = {"num_segments": case.segments} if case.segments else {}
    # Flax's output would else be float32.
    dtype = {"dtype": config.dtype} if library == "flax" else {}
    norm = module(
        use_running_average=False,
        momentum=0.9,
        axis_name=AXIS if case.shards > 1 else None,
        **fused,
        **segments,
        **dtype,
    )
    activation = nn.relu if case.relu and not fused else None
    step = jax.jit(_sharded(_jax_step(norm, activation, case), case))
    example = jnp.ones((2, *config.shape[1:]), config.dtype)
    ids = {"segment_ids": jnp.arange(2) % case.segments} if case.segments else {}
    variables = module(use_running_average=False, **segments).init(
        jax.random.key(config.seed), example, **ids
    )
    # Flax needs a mask of the rank of x; jaxbn takes it too.
    which = mask.reshape(-1, *[1] * (x.ndim - 1)) if case.masked else None
    if case.segments:
        which = np.arange(len(x), dtype=np.int32) % case.segments
    arguments = variables, *(_put(a, case, config) for a in (x, which, dy))
    return lambda: jax.block_until_ready(step(*arguments))


def _put(
    array: np.ndarray | None, case: LayerCase, config: BenchConfig
) -> jax.Array | None:
    """Puts an array on the device, or shards it over the devices."""
    if array is None:
        return None
    if np.issubdtype(array.dtype, np.floating):
        array = array.astype(config.dtype)
    if case.shards == 1:
        return jax.device_put(array)
    return jax.device_put(array, jax.sharding.NamedSharding(_mesh(case), P(AXIS)))


def _mesh(case: LayerCase) -> jax.sharding.Mesh:
    return jax.make_mesh((case.shards,), (AXIS,), axis_types=(AxisType.Auto,))


def _jax_step(
    norm: nn.Module, activation: Callable | None, case: LayerCase
) -> Callable[..., Any]:
    """Returns output, running statistics, and gradients of parameters and input."""

    def forward(params, x, stats, which):
        variables = {"params": params, "batch_stats": stats}
        parts = {"segment_ids" if case.segments else "mask": which}
        y, updates = norm.apply(variables, x, **parts, mutable=["batch_stats"])
        return (y if activation is None else activation(y)), updates["batch_stats"]

    def step(variables, x, which, dy):
        params, stats = variables["params"], variables["batch_stats"]
        if not case.backward:
            return *forward(params, x, stats, which), None
        y, vjp, stats = jax.vjp(
            lambda params, x: forward(params, x, stats, which), params, x, has_aux=True
        )
        return y, stats, vjp(dy.astype(y.dtype))

    return step


def _sharded(step: Callable, case: LayerCase) -> Callable:
    """Returns the step over devices, each of which holds a part of the batch."""
    if case.shards == 1:
        return step
    gradients = (P(), P(AXIS)) if case.backward else None
    return jax.shard_map(
        step,
        mesh=_mesh(case),
        in_specs=(P(), P(AXIS), P(AXIS), P(AXIS)),
        out_specs=(P(AXIS), P(), gradients),
    )


def _torch_step(case: LayerCase, x: np.ndarray, dy: np.ndarray) -> Callable[[], Any]:
    """Returns PyTorch's step on the CPU, in its faster format, channels last."""
    torch: Any = importlib.import_module("torch")

    def channels_last(array):
        moved = torch.from_numpy(np.moveaxis(array, -1, 1).copy())
        fits = moved.ndim == 4
        return moved.to(memory_format=torch.channels_last) if fits else moved

    kind = torch.nn.BatchNorm2d if x.ndim == 4 else torch.nn.BatchNorm1d
    norm = kind(x.shape[-1])
    tensor, cotangent = channels_last(x), channels_last(dy)
    activation = torch.nn.functional.relu if case.relu else lambda y: y

    def forward():
        with torch.no_grad():
            return activation(norm(tensor))

    def forward_and_backward():
        leaf = tensor.detach().requires_grad_()
        norm.zero_grad(set_to_none=True)
        activation(norm(leaf)).backward(cotangent)
        return leaf.grad

    return forward_and_backward if case.backward else forward
