# SPDX-License-Identifier: Apache-2.0
"""Programs compiled ahead of time for a TPU and a GPU that are not there.

The compilers come with libtpu and the CUDA plugin. What they report are predictions
from the compiled program, not measurements.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

H200 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  memory_bandwidth: 4800000000000  l2_cache_size: 62914560
  device_memory_size: 150000000000
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H200"
"""
DEVICES = {"tpu": "TPU v5e", "cuda": "NVIDIA H200"}
SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4,
         "f64": 8, "s64": 8, "u64": 8, "c64": 8, "c128": 16}  # fmt: skip


def topology(device: str) -> Any:
    """One chip."""
    if device == "tpu":
        return topologies.get_topology_desc("v5e:2x2", platform="tpu")
    return topologies.get_topology_desc(
        platform="cuda", topology_name="gpu", target_config=H200, topology="1x1x1"
    )


def compiled(
    device: str, function: Callable, shapes: Any, *, donate: tuple[int, ...] = ()
) -> jax.stages.Compiled:
    """The program of the function for one chip, from the shapes of its arguments."""
    sharding = SingleDeviceSharding(topology(device).devices[0])
    shapes = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes
    )
    traced = jax.jit(function, donate_argnums=donate).trace(*shapes)
    return traced.lower(lowering_platforms=(device,)).compile()


def num_bytes(type_: str) -> int:
    """The bytes of all arrays in an HLO type."""
    total = 0
    for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", type_):
        total += SIZES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
    return total
