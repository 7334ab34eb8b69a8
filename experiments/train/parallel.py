# SPDX-License-Identifier: Apache-2.0
"""A mesh of devices, and the three ways to map a step over it.

`jit` lets the compiler divide the work, `shard_map` and `pmap` do it explicitly; the
numbers are the same. States are replicated; batches are sharded along their examples.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.config import ParallelConfig
from experiments.errors import SharedError

AXIS = "data"
MOST_DEVICES = 256
"""Of one process. JAX would start threads for each part of a CPU, for hours."""


class Parallel(NamedTuple):
    """Devices and mode; hashable."""

    mode: str
    mesh: Mesh

    @property
    def axis_name(self) -> str | None:
        """The axis that a step sums over; None if the compiler does that."""
        return None if self.mode == "jit" else AXIS

    @property
    def num_devices(self) -> int:
        """The devices of all processes."""
        return self.mesh.size

    @property
    def local_devices(self) -> list[Any]:
        """The devices of this process."""
        return self.mesh.local_devices

    def put_state(self, state: Any) -> Any:
        """Replicates the state on every device."""
        if self.mode == "pmap":  # in one process only
            num = self.num_devices
            stacked = jax.tree.map(lambda a: np.stack([np.asarray(a)] * num), state)
            return jax.device_put(stacked, NamedSharding(self.mesh, P(AXIS)))
        replicated = NamedSharding(self.mesh, P())
        return jax.tree.map(
            lambda a: jax.make_array_from_process_local_data(replicated, np.asarray(a)),
            state,
        )

    def get_state(self, state: Any) -> Any:
        """Returns the state as replicated arrays, in every mode the same."""
        if self.mode != "pmap":
            return state
        first = jax.tree.map(lambda a: a.addressable_data(0)[0], state)
        return jax.device_put(first, NamedSharding(self.mesh, P()))

    def put_batch(self, batch: Any) -> Any:
        """Shards this process's share of a batch over its devices."""
        if self.mode == "pmap":
            num = self.num_devices
            return jax.tree.map(lambda a: a.reshape(num, -1, *a.shape[1:]), batch)
        sharded = NamedSharding(self.mesh, P(AXIS))
        return jax.tree.map(
            lambda a: jax.make_array_from_process_local_data(sharded, a), batch
        )

    def get_scores(self, scores: Any) -> Any:
        """Returns scalars that are the same on all devices."""
        if self.mode != "pmap":
            return scores
        return jax.tree.map(lambda a: a.addressable_data(0).reshape(()), scores)


@functools.cache  # one function for each task, so that it is compiled once
def mapped(parallel: Parallel, step: Callable, task: Any) -> Callable:
    """Returns `step(task, state, batch)`, compiled and mapped over the devices."""
    with_task = functools.partial(step, task)
    if parallel.mode == "pmap":
        return jax.pmap(with_task, AXIS, devices=list(parallel.mesh.devices.flat))
    if parallel.mode == "shard_map":
        with_task = jax.shard_map(
            with_task,
            mesh=parallel.mesh,
            in_specs=(P(), P(AXIS)),
            out_specs=P(),
        )
    return jax.jit(with_task)


def make_parallel(config: ParallelConfig) -> Parallel:
    """Returns the mesh that the config asks for.

    Raises:
        SharedError: there are too few devices, or some would be left out.
    """
    devices = jax.devices()
    num = config.num_devices or len(devices)
    if num > len(devices):
        raise SharedError(
            f"`parallel.num_devices` must be at most {len(devices)}, the number of "
            f"{devices[0].platform} devices here, got {num}."
        )
    if num < len(devices) and jax.process_count() > 1:
        raise SharedError(
            f"`parallel.num_devices` must be {len(devices)}, all devices of the "
            f"{jax.process_count()} processes, got {num}; leave it out."
        )
    return Parallel(config.mode, make_mesh(devices[:num]))


def make_mesh(devices: Sequence[Any]) -> Mesh:
    """Returns the mesh of all these devices."""
    axes = (len(devices),), (AXIS,)
    return jax.make_mesh(*axes, axis_types=(AxisType.Auto,), devices=devices)


def make_devices(num: int | None) -> None:
    """Splits the CPU into `num` devices, if JAX has not started to use it.

    Raises:
        SharedError: there would be too many.
    """
    if num is not None and num > MOST_DEVICES:
        raise SharedError(
            f"`parallel.num_devices` must be at most {MOST_DEVICES} in each process, "
            f"got {num}."
        )
    if num is not None:
        try:
            jax.config.update("jax_num_cpu_devices", num)
        except RuntimeError:  # it has; `make_parallel` checks the number
            return
