# SPDX-License-Identifier: Apache-2.0
"""Training: steps, the loop, devices and processes, checkpoints."""
