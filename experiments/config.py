# SPDX-License-Identifier: Apache-2.0
"""What an experiment is: frozen dataclasses, with every default and range check.

A config file says `get_config() -> ExperimentConfig`; the command line overrides it.
"""

import dataclasses
import math
from typing import Literal


def _require(holds: bool, name: str, requirement: str, value: object) -> None:
    """Raises the ValueError of a field that is out of range."""
    if not holds:
        raise ValueError(f"`{name}` must be {requirement}, got {value!r}.")


def _check_name_and_seed(name: str, seed: int) -> None:
    plain = name and not set(name) & set("/\\\0") and name != ".."
    _require(bool(plain), "name", "a plain folder name", name)
    _require(0 <= seed < 2**32, "seed", "in [0, 2**32)", seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The examples."""

    name: Literal["digits"] = "digits"
    """The data set: scikit-learn's handwritten digits, 8x8 scans, shipped with it."""
    batch_size: int = 64
    """Examples a step, at least 2."""

    def __post_init__(self):
        """Checks the ranges."""
        _require(self.batch_size >= 2, "data.batch_size", ">= 2", self.batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    name: Literal["dense", "conv"] = "dense"
    """dense: 128 and 64 hidden units; conv: 32 channels of 3x3; norm before ReLU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormConfig:
    """The normalization, the same in every place of the network."""

    kind: Literal["batch", "none"] = "batch"
    """batch: `jaxbn.linen.BatchNorm`; none: nothing."""
    momentum: float = 0.9
    """Of the running statistics, in [0, 1): new = momentum * old + (1 - momentum) *
    batch; PyTorch's is 1 minus this."""
    epsilon: float = 1e-5
    """Added to the variance, > 0."""
    virtual_batch_size: int | None = None
    """Ghost batch norm: each so many examples, at least 2, are normalized by their own
    statistics; they divide data.batch_size. None: the whole batch."""

    def __post_init__(self):
        """Checks the ranges."""
        _require(0 <= self.momentum < 1, "norm.momentum", "in [0, 1)", self.momentum)
        _require(0 < self.epsilon < math.inf, "norm.epsilon", "> 0", self.epsilon)
        size = self.virtual_batch_size
        _require(size is None or size >= 2, "norm.virtual_batch_size", ">= 2", size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer."""

    name: Literal["sgd", "momentum", "adam"] = "sgd"
    """sgd; momentum: SGD with Nesterov momentum 0.9; adam."""
    learning_rate: float = 0.1
    """Constant, > 0."""

    def __post_init__(self):
        """Checks the ranges."""
        rate = self.learning_rate
        _require(0 < rate < math.inf, "optimizer.learning_rate", "> 0", rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop."""

    num_steps: int = 600
    """Steps in all, at least 1."""
    eval_every: int = 10
    """Steps between two evaluations on the test set, at least 1."""
    log_every: int = 10
    """Steps between two lines of training metrics, at least 1."""

    def __post_init__(self):
        """Checks the ranges."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            _require(value >= 1, f"train.{field.name}", ">= 1", value)


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

    def __post_init__(self):
        """Checks the ranges."""
        _check_name_and_seed(self.name, self.seed)
        size, virtual = self.data.batch_size, self.norm.virtual_batch_size
        divides = virtual is None or size % virtual == 0
        rule = f"a divisor of data.batch_size, {size}"
        _require(divides, "norm.virtual_batch_size", rule, virtual)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """A benchmark of one layer."""

    name: str
    """Names the folder of the results, `runs/NAME`."""
    seed: int = 0
    """Of the input, in [0, 2**32)."""
    shape: tuple[int, int, int, int] = (64, 56, 56, 64)
    """Of the input: examples, an even number, height, width, channels."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the input; PyTorch has its turn in float32 only."""
    rounds: int = 20
    """How often each library has its turn, at least 1."""

    def __post_init__(self):
        """Checks the ranges."""
        _check_name_and_seed(self.name, self.seed)
        _require(self.rounds >= 1, "rounds", ">= 1", self.rounds)
        fits = min(self.shape) >= 1 and self.shape[0] % 2 == 0
        _require(fits, "shape", "positive, of an even number of examples", self.shape)
