# SPDX-License-Identifier: Apache-2.0
"""The tests of Flax that jaxbn does not pass, and why."""

DIFFERENCES: dict[str, str] = {}
