# SPDX-License-Identifier: Apache-2.0
"""How several processes find each other."""

import dataclasses

from experiments.config.ranges import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessesConfig:
    """How several processes find each other; not a part of what a run is.

    `python -m experiments launch` gives these on one machine.
    """

    detect: bool = False
    """Let JAX find the others: under Slurm, Open MPI, on Cloud TPU, in GKE.

    Each process uses all devices that it has, `JAX_NUM_CPU_DEVICES` of them on a CPU.
    Asked to stop, `mpirun` kills them before they have saved, unless it has
    `--mca odls_base_sigkill_timeout 10`.
    """
    coordinator_address: str | None = None
    """HOST:PORT of process 0, where they are not detected."""
    num_processes: int | None = None
    """How many there are, at least 1."""
    process_id: int | None = None
    """Which of them this is, from 0."""

    def __post_init__(self):
        """Checks the ranges."""
        given = (self.coordinator_address, self.num_processes, self.process_id)
        num_given = sum(value is not None for value in given)
        require(
            num_given in (0, 3),
            "processes.coordinator_address",
            "given with num_processes and process_id, or all left out",
            self.coordinator_address,
        )
        require(
            not (self.detect and num_given),
            "processes.detect",
            "off where processes.coordinator_address is given",
            self.detect,
        )
        host, _, port = (self.coordinator_address or "host:1").rpartition(":")
        require(
            bool(host) and port.isdecimal() and 0 < int(port) < 2**16,
            "processes.coordinator_address",
            "HOST:PORT",
            self.coordinator_address,
        )
        num, number = self.num_processes, self.process_id
        if num is not None and number is not None:
            require(num >= 1, "processes.num_processes", ">= 1", num)
            rule = f"in [0, {num})"
            require(0 <= number < num, "processes.process_id", rule, number)
