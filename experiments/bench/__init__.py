# SPDX-License-Identifier: Apache-2.0
"""Timings of jaxbn and its peers, in turn."""
