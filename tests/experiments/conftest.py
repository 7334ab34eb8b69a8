# SPDX-License-Identifier: Apache-2.0
"""The experiments run as users run them."""

import pytest


@pytest.fixture(autouse=True)
def _as_users_run_it(as_users_run_it):
    """Flax and optax rely on implicit promotion."""
