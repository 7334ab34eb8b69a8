# SPDX-License-Identifier: Apache-2.0
"""The modules for Linen and NNX: they hold state; the arithmetic is in the core."""
