# SPDX-License-Identifier: Apache-2.0
"""Real programs, unchanged but for the class of their norm, against the originals.

`make clients` runs them, in an environment of its own.
"""
