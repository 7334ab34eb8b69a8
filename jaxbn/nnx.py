# SPDX-License-Identifier: Apache-2.0
"""Batch norm for Flax NNX: change an import, and keep parameters and statistics."""

from jaxbn._accumulation.nnx import begin_accumulation, commit
from jaxbn._diagnosis.nnx import diagnose
from jaxbn._diagnosis.report import Diagnosis, LayerSummary
from jaxbn._diagnosis.rules import Finding, StatisticsGap
from jaxbn._flax.nnx import BatchNorm, BatchRenorm
from jaxbn._surgery.nnx import freeze, replace, restore, synchronise, unfreeze
from jaxbn._surgery.report import SurgeryReport

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "Diagnosis",
    "Finding",
    "LayerSummary",
    "StatisticsGap",
    "SurgeryReport",
    "begin_accumulation",
    "commit",
    "diagnose",
    "freeze",
    "replace",
    "restore",
    "synchronise",
    "unfreeze",
]
