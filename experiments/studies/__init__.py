# SPDX-License-Identifier: Apache-2.0
"""The study of test-time adaptation; those of claims are in `experiments/lab`."""
