# SPDX-License-Identifier: Apache-2.0
"""What a run shows and leaves behind: folder, metrics, progress, curves, pages."""
