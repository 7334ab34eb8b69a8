# SPDX-License-Identifier: Apache-2.0
"""Weights of other libraries: layers, how they match, and the names of each."""
