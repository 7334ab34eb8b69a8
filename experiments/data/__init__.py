# SPDX-License-Identifier: Apache-2.0
"""The examples, from files to batches."""

from experiments.data.datasets import load_dataset as load_dataset
from experiments.data.examples import ArraySource as ArraySource
from experiments.data.examples import Batch as Batch
from experiments.data.examples import Dataset as Dataset
from experiments.data.examples import Source as Source
from experiments.data.examples import chosen as chosen
from experiments.data.pipeline import EvalBatches as EvalBatches
from experiments.data.pipeline import batches_of_each_kind as batches_of_each_kind
from experiments.data.pipeline import in_steps as in_steps
from experiments.data.pipeline import rows_of_step as rows_of_step
from experiments.data.pipeline import train_batches as train_batches
