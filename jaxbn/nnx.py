# SPDX-License-Identifier: Apache-2.0
"""Batch norm for Flax NNX: change an import, and keep parameters and statistics."""

from jaxbn._flax.nnx import BatchNorm, BatchRenorm

__all__ = ["BatchNorm", "BatchRenorm"]
