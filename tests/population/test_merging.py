# SPDX-License-Identifier: Apache-2.0
"""Two real processes: each with its own batches, or both with shared arrays."""

import jax
import numpy as np
import pytest

from tests.core.test_distributed import run_processes
from tests.population import worker
from tests.population.nets import ESTIMATES, start

pytestmark = pytest.mark.processes


def alone(batches):
    """In one process, all of them."""
    how = {"layerwise": True, "prior_count": worker.PRIOR, "progress": False}
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        return ESTIMATES["linen"](start(), batches, **how)


def test_processes_estimate_as_one(tmp_path):
    ended = run_processes(2, tmp_path, "tests.population.worker")
    for one, other in zip(*ended, strict=True):  # they agree, bit for bit
        np.testing.assert_array_equal(one, other)
    kinds = [worker.batches(), worker.batches(), worker.filled()]
    expected = [alone(batches) for batches in kinds]
    stats = [variables["batch_stats"] for variables, _ in expected]
    *leaves, own, nothing, shared = ended[0]
    assert (own, nothing) == (5, 5)
    assert shared == 2 * 4  # each counts those that it shares
    for got, leaf in zip(leaves, jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(got, leaf, rtol=2e-5, atol=2e-6)
