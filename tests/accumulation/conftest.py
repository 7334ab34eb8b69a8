# SPDX-License-Identifier: Apache-2.0
"""The micro-batches of these tests."""

import jax.numpy as jnp
import pytest

from tests.accumulation.runs import FEATURES, PARTS, SIZE


@pytest.fixture
def parts(rng):
    x = rng.normal(50, [0.5, 2, 30], size=(PARTS, SIZE, 5, FEATURES))
    return list(jnp.asarray(x + 10 * rng.normal(size=(PARTS, 1, 1, 1)), jnp.float32))
