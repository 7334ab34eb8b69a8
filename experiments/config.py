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

    kind: Literal["batch", "renorm", "group", "layer", "none"] = "batch"
    """batch, renorm: jaxbn's BatchNorm, BatchRenorm; group, layer: Flax's GroupNorm,
    LayerNorm; none: nothing."""
    momentum: float = 0.9
    """Of the running statistics, in [0, 1): new = momentum * old + (1 - momentum) *
    batch; PyTorch's is 1 minus this."""
    epsilon: float = 1e-5
    """Added to the variance, > 0."""
    virtual_batch_size: int | None = None
    """Ghost batch norm: each so many examples, at least 2, are normalized by their own
    statistics; they divide data.batch_size. None: the whole batch."""
    debias: bool = False
    """Leave the initial 0 and 1 out of the running statistics."""
    group_size: int = 16
    """Channels in a group of GroupNorm, at least 1; they divide all channels."""

    def __post_init__(self):
        """Checks the ranges."""
        _require(0 <= self.momentum < 1, "norm.momentum", "in [0, 1)", self.momentum)
        _require(0 < self.epsilon < math.inf, "norm.epsilon", "> 0", self.epsilon)
        size = self.virtual_batch_size
        _require(size is None or size >= 2, "norm.virtual_batch_size", ">= 2", size)
        _require(self.group_size >= 1, "norm.group_size", ">= 1", self.group_size)


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What every study has; each kind adds its own."""

    name: str
    """Names the folder of the results, `runs/NAME`."""
    num_seeds: int = 5
    """Training runs of each variant, by seeds from 0, at least 1."""
    experiment: ExperimentConfig
    """What is trained; its own seed is not used."""

    def __post_init__(self):
        """Checks the ranges."""
        _check_name_and_seed(self.name, 0)
        _require(self.num_seeds >= 1, "num_seeds", ">= 1", self.num_seeds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationStudy(StudyConfig):
    """Test-time adaptation to corrupted images."""

    batch_size: int = 36
    """Unlabelled test images that each adaptation sees, at least 2."""
    prior_counts: tuple[float, ...] = (0.0, 16.0)
    """How many images the statistics of training weigh, at least 0 each."""

    def __post_init__(self):
        """Checks the ranges."""
        super().__post_init__()
        _require(self.batch_size >= 2, "batch_size", ">= 2", self.batch_size)
        least = min(self.prior_counts, default=-1)
        _require(least >= 0, "prior_counts", ">= 0, at least one", self.prior_counts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceStudy(StudyConfig):
    """Evaluation early in training, by running and by population statistics."""

    steps: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500)
    """After which steps the networks are evaluated, increasing, from 1."""

    def __post_init__(self):
        """Checks the ranges."""
        super().__post_init__()
        fits = self.steps and min(self.steps) >= 1
        fits = bool(fits and list(self.steps) == sorted(set(self.steps)))
        _require(fits, "steps", "increasing, from 1", self.steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSizeStudy(StudyConfig):
    """Test error by batch size, with several norms."""

    batch_sizes: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Each trains on as many examples in all, at least 2 each, and divides the
    experiment's; the learning rate is in proportion to it."""

    def __post_init__(self):
        """Checks the ranges."""
        super().__post_init__()
        least = min(self.batch_sizes, default=0)
        _require(least >= 2, "batch_sizes", ">= 2, at least one", self.batch_sizes)
        whole = self.experiment.data.batch_size
        divide = all(whole % size == 0 for size in self.batch_sizes)
        rule = f"divisors of experiment.data.batch_size, {whole}"
        _require(divide, "batch_sizes", rule, self.batch_sizes)
