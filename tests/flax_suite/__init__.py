# SPDX-License-Identifier: Apache-2.0
"""Flax's own tests of batch norm, run on Flax and on jaxbn: `make flax-suite`."""
