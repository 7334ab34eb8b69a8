# SPDX-License-Identifier: Apache-2.0
"""What training steps cost on a TPU and a GPU, with Flax's norm and ours.

`make check-hardware` prints the table, and fails where a step costs more than its
budget. All figures are predictions from compiled programs, as ratios to Flax's.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from experiments.hardware import hlo
from experiments.hardware.programs import compiled_for
from experiments.hardware.targets import find
from tests.hardware import networks
from tests.hardware.networks import FLAX, FUSED, OUTSIDE, SAVING

TPU, GPU = "v5e:2x2", "h200:1"  # one device of the first
ON_TPU = {"Mcycles": 1.005, "temp GB": 1.005}
F32, BF16 = jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)


class Step(NamedTuple):
    """A training step, and the most that each figure may be of Flax's."""

    hardware: str
    network: Callable
    dtype: jnp.dtype
    batch: int
    budget: dict[str, float]
    saving: dict[str, float] | None = None  # the same under `jaxbn.save_inputs`

    @property
    def title(self) -> str:
        name = self.network.__name__.replace("_", " ")
        device = self.hardware.partition(":")[0]
        return f"one {device}, {name}, {self.dtype.name}, batch {self.batch}"


def gpu(gigabytes: float, temp: float = 1.0) -> dict[str, float]:
    return {"GB": gigabytes, "kernels": 0.9, "temp GB": temp}


SMALL = (
    Step(TPU, networks.bottleneck, F32, 64, ON_TPU),
    Step(TPU, networks.bottleneck, BF16, 128, ON_TPU),
    # Of its blocks more have a projection than of those of ResNet-50, which cost more.
    Step(GPU, networks.one_a_stage, F32, 64, gpu(1.0, temp=1.005)),
    Step(GPU, networks.one_a_stage, BF16, 64, gpu(0.95, temp=1.01)),
)
LARGE = (
    Step(TPU, networks.one_a_stage, F32, 64, ON_TPU),
    Step(TPU, networks.one_a_stage, BF16, 256, ON_TPU),
    Step(GPU, networks.resnet50, BF16, 256, gpu(0.93), gpu(0.99, temp=0.79)),
    Step(GPU, networks.resnet50, F32, 256, gpu(0.96)),
)


def figures(step: Step, norm: str) -> dict[str, float]:
    """Compiles the step with a norm."""
    network, shape = step.network(norm, step.dtype, step.batch)
    function, shapes = networks.training_step(network, shape, step.dtype)
    target = find(step.hardware)
    program = compiled_for(target, function, shapes, donate=(0, 1, 2))
    temp = program.memory_analysis().temp_size_in_bytes / 1e9
    text = program.as_text()
    if step.hardware == TPU:
        return {"Mcycles": hlo.cycles(text) / 1e6, "temp GB": temp}
    kernels = [i for i in hlo.computations(text)["ENTRY"] if i.op not in hlo.FREE]
    return {"GB": hlo.traffic(text) / 1e9, "kernels": len(kernels), "temp GB": temp}


def main(steps: tuple[Step, ...]) -> int:
    """Prints a table a step; returns how many figures exceed their budgets."""
    console, exceeded = Console(), 0
    for step in steps:
        jax.clear_caches()
        table = Table("norm", *step.budget, title=step.title)
        of_flax = figures(step, FLAX)
        table.add_row("Flax", *(f"{value:.4g}" for value in of_flax.values()))
        budgets = {OUTSIDE: step.budget, FUSED: step.budget, SAVING: step.saving}
        for norm, budget in budgets.items():
            if budget is None:
                continue
            cells = []
            for name, value in figures(step, norm).items():
                ratio, most = value / of_flax[name], budget[name]
                exceeded += ratio > most
                mark = f" > {most}!" if ratio > most else ""
                cells.append(f"{value:.4g} ({ratio:.3f}{mark})")
            table.add_row(norm, *cells)
        console.print(table)
    if exceeded:
        console.print(f"{exceeded} figures exceed their budgets.")
    return exceeded


if __name__ == "__main__":
    sys.exit(bool(main(SMALL if "small" in sys.argv[1:] else SMALL + LARGE)))
