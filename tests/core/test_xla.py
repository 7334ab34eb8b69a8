# SPDX-License-Identifier: Apache-2.0
"""Each spelling in `_core/xla.py` against plain JAX, in the compiled program.

A test that fails here says that the compiler no longer needs the spelling: then the
spelling goes. Those for TPU and GPU are in `tests/hardware/`.
"""

import jax

from jaxbn._core import xla
from tests.core.test_passes import count, ours


def test_subtracting_again_saves_passes_over_x(monkeypatch):
    def plain(x, vector, expand):
        return x - expand(vector)

    with_it = sum(count(ours("plain"), backward=True))
    monkeypatch.setattr(xla, "subtract_again", plain)
    jax.clear_caches()
    without = sum(count(ours("plain"), backward=True))
    jax.clear_caches()
    assert with_it < without
