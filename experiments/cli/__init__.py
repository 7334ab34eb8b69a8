# SPDX-License-Identifier: Apache-2.0
"""The commands, one file each: its arguments as a dataclass, and what it does.

JAX and matplotlib are imported in the functions that need them, so that `--help` and
mistakes are answered at once.
"""
