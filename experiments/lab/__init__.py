# SPDX-License-Identifier: Apache-2.0
"""The laboratory: from a study's config to runs, verdicts, and pages."""
