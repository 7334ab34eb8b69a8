# SPDX-License-Identifier: Apache-2.0
"""The experiments run as users run them."""

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def _all_devices():
    """Starts JAX with all eight, before a command in this process asks for fewer."""
    assert jax.device_count() == 8


@pytest.fixture(autouse=True)
def _as_users_run_it(as_users_run_it):
    """Flax and optax rely on implicit promotion."""
