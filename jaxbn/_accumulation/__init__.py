# SPDX-License-Identifier: Apache-2.0
"""Micro-batches: running statistics that move once for several batches."""
