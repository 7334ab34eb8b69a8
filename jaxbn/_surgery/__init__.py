# SPDX-License-Identifier: Apache-2.0
"""Changes to all batch norms of a network, without touching its code."""
