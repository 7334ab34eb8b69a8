# SPDX-License-Identifier: Apache-2.0
"""Whole functions made ready for deployment: norms folded into linear operations."""
