# SPDX-License-Identifier: Apache-2.0
"""Statistics of a whole population, estimated from an iterable of batches."""
