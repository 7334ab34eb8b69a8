# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the batch norms of a model: evidence, rules, a report."""
