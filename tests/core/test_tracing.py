# SPDX-License-Identifier: Apache-2.0
"""What a norm adds to a traced training step, in equations, and what Flax's adds.

JAX traces a function under `jit` once for each kind of arguments: equations of one
traced function count once, however often the network calls it.
"""

import jax
import jax.numpy as jnp
import pytest

import jaxbn
from tests import hlo
from tests.hardware import networks

NUM_NORMS = 53


def equations(jaxpr, seen):
    """The equations of a program and of all programs in it, each program once."""
    if id(jaxpr) in seen:
        return 0
    seen.add(id(jaxpr))
    inner = jax.tree.leaves(
        [list(one.params.values()) for one in jaxpr.eqns],
        is_leaf=lambda value: hasattr(value, "jaxpr") or hasattr(value, "eqns"),
    )
    inner = [getattr(one, "jaxpr", one) for one in inner]
    programs = [one for one in inner if hasattr(one, "eqns")]
    return len(jaxpr.eqns) + sum(equations(one, seen) for one in programs)


def of_resnet50(norm):
    network, shape = networks.resnet50(norm, jnp.float32, 8)
    step, shapes = networks.training_step(network, shape, jnp.float32)
    return equations(jax.make_jaxpr(step)(*shapes).jaxpr, set())


@pytest.mark.usefixtures("as_users_run_it")
def test_equations_a_norm():
    without = of_resnet50(None)
    flax, outside, fused = (
        (of_resnet50(norm) - without) / NUM_NORMS for norm in networks.NORMS
    )
    assert 50 < flax < 80
    assert max(outside, fused) <= 1.1 * flax


def test_vmap_takes_no_pass_more(monkeypatch):
    """The loop of the statistics does not become one that always runs."""
    x = jax.ShapeDtypeStruct((4, 32, 14, 14, 64), jnp.float32)

    def forward(x):
        return jaxbn.batch_norm(x)[0]

    of_one = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    once = hlo.passes(forward, of_one, full=of_one.size)
    assert hlo.passes(jax.vmap(forward), x, full=x.size) == once
