# SPDX-License-Identifier: Apache-2.0
"""One experiment: what is trained, on what, and how."""

import dataclasses

from experiments.config.data import DataConfig
from experiments.config.model import ModelConfig
from experiments.config.norm import NormConfig
from experiments.config.optimizer import OptimizerConfig
from experiments.config.parallel import ParallelConfig
from experiments.config.processes import ProcessesConfig
from experiments.config.ranges import check_name_and_seed, require
from experiments.config.train import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One experiment."""

    name: str
    """Names the run folder, `runs/NAME`."""
    seed: int = 0
    """Of initial parameters and data order, in [0, 2**32)."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    norm: NormConfig = NormConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    parallel: ParallelConfig = ParallelConfig()
    processes: ProcessesConfig = ProcessesConfig()

    def __post_init__(self):
        """Checks the ranges, and what does not fit together."""
        check_name_and_seed(self.name, self.seed)
        size, virtual = self.data.batch_size, self.norm.virtual_batch_size
        rule = f"a divisor of data.batch_size, {size}"
        require(
            virtual is None or size % virtual == 0,
            "norm.virtual_batch_size", rule, virtual,
        )  # fmt: skip
        num = self.parallel.num_devices
        require(num is None or size % num == 0, "parallel.num_devices", rule, num)
        group = self.parallel.statistics
        rule = "a divisor of parallel.num_devices, given too"
        divides = isinstance(group, str) or bool(num and num % group == 0)
        require(divides, "parallel.statistics", rule, group)
        rule = "global with norm.virtual_batch_size, which cuts the batch itself"
        fits = virtual is None or group == "global"
        require(fits, "parallel.statistics", rule, group)
