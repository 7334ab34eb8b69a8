# SPDX-License-Identifier: Apache-2.0
"""What can be said in a config: frozen dataclasses, with every default and range check.

A config file says `get_config() -> ExperimentConfig`; the command line overrides it.
"""

from experiments.config.bench import BenchConfig as BenchConfig
from experiments.config.data import DataConfig as DataConfig
from experiments.config.experiment import ExperimentConfig as ExperimentConfig
from experiments.config.experiment import ModelConfig as ModelConfig
from experiments.config.norm import NormConfig as NormConfig
from experiments.config.optimizer import OptimizerConfig as OptimizerConfig
from experiments.config.parallel import ParallelConfig as ParallelConfig
from experiments.config.processes import ProcessesConfig as ProcessesConfig
from experiments.config.studies import AdaptationStudy as AdaptationStudy
from experiments.config.studies import BatchSizeStudy as BatchSizeStudy
from experiments.config.studies import InferenceStudy as InferenceStudy
from experiments.config.studies import StudyConfig as StudyConfig
from experiments.config.train import TrainConfig as TrainConfig
