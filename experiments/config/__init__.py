# SPDX-License-Identifier: Apache-2.0
"""Configs: frozen dataclasses with all defaults and range checks.

A config file has a function `get_config()` that returns an `ExperimentConfig`, a
`StudyConfig` or a `BenchConfig`; the command line can change its fields.
"""

from experiments.config.bench import BenchConfig as BenchConfig
from experiments.config.experiment import DataConfig as DataConfig
from experiments.config.experiment import ExperimentConfig as ExperimentConfig
from experiments.config.experiment import ModelConfig as ModelConfig
from experiments.config.experiment import NormConfig as NormConfig
from experiments.config.experiment import OptimizerConfig as OptimizerConfig
from experiments.config.experiment import ParallelConfig as ParallelConfig
from experiments.config.experiment import ProcessesConfig as ProcessesConfig
from experiments.config.experiment import TrainConfig as TrainConfig
from experiments.config.lab import IMAGES as IMAGES
from experiments.config.lab import LAB_CONV as LAB_CONV
from experiments.config.lab import LAB_DENSE as LAB_DENSE
from experiments.config.lab import Images as Images
from experiments.config.lab import in_both_networks as in_both_networks
from experiments.config.lab import on as on
from experiments.config.lab import trains as trains
from experiments.config.studies import AdaptationConfig as AdaptationConfig
from experiments.config.studies import Claim as Claim
from experiments.config.studies import Corruption as Corruption
from experiments.config.studies import FigureConfig as FigureConfig
from experiments.config.studies import How as How
from experiments.config.studies import Measure as Measure
from experiments.config.studies import StudyConfig as StudyConfig
from experiments.config.studies import Variant as Variant
from experiments.config.studies import changed as changed
from experiments.config.studies import grid as grid
from experiments.config.studies import values as values
