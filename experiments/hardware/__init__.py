# SPDX-License-Identifier: Apache-2.0
"""Programs for TPUs and GPUs that are not there: compiled ahead of time, and read.

All figures are predictions from the compiled program, not measurements.
"""
