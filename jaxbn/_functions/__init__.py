# SPDX-License-Identifier: Apache-2.0
"""The public functions: each checks and lifts its arguments, then calls the core."""
