# SPDX-License-Identifier: Apache-2.0
"""Nothing that is not finite is made of what is, not even to be masked afterwards.

JAX's flags look at every result of every program, checkify at every operation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import jaxbn
from tests import cases, shards
from tests.cases import Case

FLAGS = {"nans": jax.debug_nans, "infs": jax.debug_infs}


@pytest.fixture(params=FLAGS)
def flag(request):
    with FLAGS[request.param](True):
        yield


def test_every_case(flag, case):
    data = cases.make(case)
    finite = [None if v is None else np.nan_to_num(v) for v in data]
    result = shards.run_whole(case, cases.Data(*finite))
    assert np.all(np.isfinite(np.asarray(result.y, np.float32)))


@pytest.mark.parametrize("mode", shards.MODES)
@pytest.mark.parametrize("groups", [None, [[0, 1], [2, 3]]])
def test_shards_of_which_one_is_empty(flag, mode, groups):
    case = Case("sync_ragged", shape=(16, 5, 3), mask="ragged")
    data = cases.make(case)
    finite = [None if v is None else np.nan_to_num(v) for v in data]
    shards.run(mode, case, cases.Data(*finite), axis_index_groups=groups)


def test_moments_merged_and_statistics_updated(flag):
    nothing = jaxbn.Moments(jnp.zeros((3, 2)), jnp.zeros((3, 2)), jnp.zeros(3))
    merged = jaxbn.merge_moments(nothing)
    batch = jaxbn.compute_moments(jnp.asarray([[1.0, 2.0], [3.0, 5.0]]))
    for momentum in (0.0, 0.9, 1.0, None, jnp.asarray(0.0), jnp.asarray(1.0)):
        stats = jaxbn.init_running_stats(2)
        for moments in (merged, batch, batch):
            options = {"momentum": momentum, "debias": momentum is not None}
            stats = jaxbn.update_running_stats(stats, moments, **options)
        np.testing.assert_allclose(stats.mean, batch.mean, rtol=1e-6)


def test_checkify_finds_nothing(case):
    data = cases.make(case)
    finite = cases.Data(*(None if v is None else np.nan_to_num(v) for v in data))

    def loss(x, scale, bias):
        options = cases.options(case, finite)
        y, moments = jaxbn.batch_norm(x, scale, bias, **options)
        return jnp.sum(jnp.square(y.astype(moments.var.dtype))) + jnp.sum(moments.var)

    slope = checkify.checkify(jax.grad(loss), errors=checkify.float_checks)
    error, _ = jax.jit(slope)(*cases.arrays(finite))
    error.throw()
