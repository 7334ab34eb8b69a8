# SPDX-License-Identifier: Apache-2.0
"""What a run leaves: its folder, metrics, progress, curves and pages."""
