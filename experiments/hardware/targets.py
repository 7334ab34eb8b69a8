# SPDX-License-Identifier: Apache-2.0
"""The hardware that programs are compiled for: names, layouts, memory, speed.

The compilers come with libtpu and JAX's CUDA plugin, and need no device.
"""

import contextlib
import importlib.metadata
import os
import re
from typing import Any, NamedTuple

from experiments.errors import UserError, first_line

INSTALL = 'pip install "jaxbn[hardware]"'
EXAMPLES = {
    "v2": "2x2", "v3": "2x2", "v4": "2x2x1", "v5e": "4x4", "v5p": "2x2x1",
    "v6e": "4x4", "tpu7x": "2x2x1", "a100": "8", "h100": "8", "h200": "8",
}  # fmt: skip
"""Of each kind of device, one layout of many."""
TPU_MEMORY = {
    "v2": 7.48, "v3": 15.48, "v4": 30.75, "v5e": 15.75, "v5p": 95.73, "v6e": 31.24,
    "tpu7x": 94.74,
}  # fmt: skip
"""GiB of a device that a program may use, by the compiler of libtpu 0.0.52."""
COMPILERS = {"tpu": ["libtpu"], "cuda": ["jax-cuda13-plugin", "jax-cuda12-plugin"]}
"""The packages that have one; any of them will do, the first is what we install."""
PER_HOST = 8
"""GPUs."""
# Where no TPU is, libtpu would ask the network which of them it has. XLA would write a
# line that asks for a report when it takes minutes; its errors are raised as well.
ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class Card(NamedTuple):
    """A GPU, by NVIDIA's data sheet and its own answers."""

    title: str
    capability: tuple[int, int]
    num_cores: int
    fpus_per_core: int
    clock: float  # GHz
    shared_memory: int  # of a core
    l2_cache: int
    memory: int
    bandwidth: float  # bytes per second
    flops: dict[str, float]  # per second, dense; float32 as TF32, JAX's default

    @property
    def config(self) -> str:
        """The text proto from which the compiler knows it."""
        major, minor = self.capability
        return f"""
            gpu_device_info {{
              cuda_compute_capability {{ major: {major} minor: {minor} }}
              threads_per_block_limit: 1024
              threads_per_warp: 32
              threads_per_core_limit: 2048
              shared_memory_per_block: 49152
              shared_memory_per_block_optin: {self.shared_memory - 1024}
              shared_memory_per_core: {self.shared_memory}
              core_count: {self.num_cores}
              fpus_per_core: {self.fpus_per_core}
              clock_rate_ghz: {self.clock}
              block_dim_limit_x: 2147483647
              block_dim_limit_y: 65535
              block_dim_limit_z: 65535
              registers_per_core_limit: 65536
              registers_per_block_limit: 65536
              memory_bandwidth: {self.bandwidth:.0f}
              l2_cache_size: {self.l2_cache}
              device_memory_size: {self.memory}
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
            device_description_str: "{self.title}"
        """


HOPPER = {"float32": 494.7e12, "bfloat16": 989.4e12}
CARDS = {
    "a100": Card(
        "NVIDIA A100 80GB", (8, 0), 108, 64, 1.41, 164 * 1024, 40 * 2**20,
        85_167_243_264, 2.039e12, {"float32": 156e12, "bfloat16": 312e12},
    ),
    "h100": Card(
        "NVIDIA H100 80GB", (9, 0), 132, 128, 1.98, 228 * 1024, 50 * 2**20,
        84_942_979_072, 3.35e12, HOPPER,
    ),
    "h200": Card(
        "NVIDIA H200", (9, 0), 132, 128, 1.98, 228 * 1024, 60 * 2**20,
        150_000_000_000, 4.8e12, HOPPER,
    ),
}  # fmt: skip


class Target(NamedTuple):
    """Devices that are not there."""

    name: str
    platform: str  # tpu or cuda
    devices: list[Any]
    memory: int  # bytes of each
    compiler: str  # package and version
    card: Card | None = None  # of a GPU

    @property
    def options(self) -> dict[str, Any]:
        """Of the compiler, which would else time kernels on the device."""
        return {} if self.card is None else {"xla_gpu_autotune_level": 0}


def find(name: str) -> Target:
    """Returns the devices of this name, such as v5e:4x4 or h200:8.

    It is to be called before JAX looks for devices, which is then told not to look for
    others than the CPU.

    Raises:
        UserError: there is no such hardware, or its compiler is not installed.
    """
    kind, layout = parse(name)
    platform = "cuda" if kind in CARDS else "tpu"
    compiler = _compiler(platform, name)
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    card = CARDS.get(kind)
    if card is not None:
        num = int(layout)
        hosts = max(1, num // PER_HOST)
        devices = topologies.get_topology_desc(
            platform="cuda",
            topology_name="gpu",
            target_config=card.config,
            topology=f"1x{hosts}x{num // hosts}",
        ).devices
        return Target(name, platform, list(devices), card.memory, compiler, card)
    # As JAX has it on v4: the two cores of a chip are one device.
    options = {"chip_config_name": "megacore"} if kind == "v4" else {}
    try:
        devices = topologies.get_topology_desc(
            f"{kind}:{layout}", platform="tpu", **options
        ).devices
    except RuntimeError as error:
        text = first_line(error).removeprefix("INVALID_ARGUMENT: ")
        raise UserError(
            f"`--hardware` {name} is no layout of a TPU: {text}."
        ) from error
    memory = int(TPU_MEMORY[kind] * 2**30)
    return Target(name, platform, list(devices), memory, compiler)


def parse(name: str) -> tuple[str, str]:
    """Returns the kind of the devices, and their layout or number.

    Raises:
        UserError: there is no such hardware.
    """
    kind, _, layout = name.partition(":")
    if kind in CARDS:
        num = int(layout or 1) if re.fullmatch(r"[0-9]{0,5}", layout) else 0
        if 1 <= num <= PER_HOST or (num and num % PER_HOST == 0):
            return kind, str(num)
        raise UserError(
            f"`--hardware` {kind} must have 1 to {PER_HOST} devices or a multiple of "
            f"{PER_HOST}, such as {kind}:{EXAMPLES[kind]}, got `{name}`."
        )
    if kind not in TPU_MEMORY:
        raise UserError(f"`--hardware` must be one of {valid_names()}, got `{name}`.")
    if not re.fullmatch(r"[1-9][0-9]{0,3}(x[1-9][0-9]{0,3}){1,2}", layout):
        raise UserError(
            f"`--hardware` {kind} must have a layout, such as "
            f"{kind}:{EXAMPLES[kind]}, got `{name}`."
        )
    return kind, layout


def valid_names() -> str:
    """Returns the kinds of devices, each with a layout, as a part of a sentence."""
    names = ", ".join(f"{kind}:{layout}" for kind, layout in EXAMPLES.items())
    return f"{names}, or of another layout or number"


def _compiler(platform: str, name: str) -> str:
    """Returns the package of the compiler and its version.

    Raises:
        UserError: it is not installed; the error says what to install.
    """
    packages = COMPILERS[platform]
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{package} {importlib.metadata.version(package)}"
    raise UserError(
        f"compiling for {name} needs the package {packages[0]}; install it with "
        f"`{INSTALL}`."
    )
