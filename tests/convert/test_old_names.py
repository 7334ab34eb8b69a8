# SPDX-License-Identifier: Apache-2.0
"""The names of before `jaxbn.convert` do the same, and warn."""

import chex
import pytest
from flax import nnx

import jaxbn.conversion
import jaxbn.convert
import jaxbn.nnx


def test_old_names_warn():
    norm = jaxbn.nnx.BatchNorm(1, rngs=nnx.Rngs(0))
    match = r"`jaxbn\.conversion\.to_linen` is now `jaxbn\.convert\.to_linen`"
    with pytest.warns(DeprecationWarning, match=match):
        variables = jaxbn.conversion.to_linen(norm)
    chex.assert_trees_all_equal(variables, jaxbn.convert.to_linen(norm))
    with pytest.warns(DeprecationWarning, match=r"`jaxbn\.convert\.from_linen`"):
        jaxbn.conversion.from_linen(norm, variables)
