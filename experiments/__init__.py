# SPDX-License-Identifier: Apache-2.0
"""The laboratory: config-driven experiments, `python -m experiments --help`."""
