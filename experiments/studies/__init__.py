# SPDX-License-Identifier: Apache-2.0
"""The studies: each a function from its config to a table and figures."""
