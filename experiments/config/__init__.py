# SPDX-License-Identifier: Apache-2.0
"""What can be said in a config: frozen dataclasses, with every default and range check.

A config file says `get_config() -> ExperimentConfig`; the command line overrides it.
"""

from experiments.config.bench import BenchConfig as BenchConfig
from experiments.config.data import DataConfig as DataConfig
from experiments.config.experiment import ExperimentConfig as ExperimentConfig
from experiments.config.lab import LAB_CONV as LAB_CONV
from experiments.config.lab import LAB_DENSE as LAB_DENSE
from experiments.config.lab import in_both_networks as in_both_networks
from experiments.config.lab import trains as trains
from experiments.config.model import ModelConfig as ModelConfig
from experiments.config.norm import NormConfig as NormConfig
from experiments.config.optimizer import OptimizerConfig as OptimizerConfig
from experiments.config.parallel import ParallelConfig as ParallelConfig
from experiments.config.processes import ProcessesConfig as ProcessesConfig
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
from experiments.config.train import TrainConfig as TrainConfig
