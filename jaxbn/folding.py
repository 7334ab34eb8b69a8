# SPDX-License-Identifier: Apache-2.0
"""Whole functions made ready for deployment, whatever framework they are written in."""

from jaxbn._folding.fold import Folded, fold
from jaxbn._folding.planning import FoldedNorm

__all__ = ["Folded", "FoldedNorm", "fold"]
