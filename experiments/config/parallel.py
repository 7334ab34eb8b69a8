# SPDX-License-Identifier: Apache-2.0
"""How the batch is cut over devices."""

import dataclasses
from typing import Literal

from experiments.config.ranges import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How the batch is cut over devices, and who shares statistics."""

    mode: Literal["jit", "shard_map", "pmap"] = "jit"
    """All three give the same numbers; jit is what JAX recommends."""
    num_devices: int | None = None
    """Of all processes together, at least 1; they divide data.batch_size. None: all
    there are. A CPU is made into so many devices."""
    statistics: Literal["global", "device"] | int = "global"
    """Of batch norm: global, of the whole batch; device, of each device's part; a
    number of devices, at least 1, of each such group."""

    def __post_init__(self):
        """Checks the ranges."""
        num, group = self.num_devices, self.statistics
        require(num is None or num >= 1, "parallel.num_devices", ">= 1", num)
        fits = isinstance(group, str) or group >= 1
        require(fits, "parallel.statistics", "global, device, or >= 1", group)
