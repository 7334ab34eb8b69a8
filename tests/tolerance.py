# SPDX-License-Identifier: Apache-2.0
"""How far a right result may be off, computed from dtype and number of terms."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from tests import oracle


def unit(dtype) -> float:
    """The distance from 1 to the next number."""
    return float(jnp.finfo(dtype).eps)


LARGE_MEAN = 25


class Tolerance(NamedTuple):
    """How far a right result may be off, from dtype and number of terms.

    Sums of n terms lose at most log2(n) + a few units of the sum of the terms' sizes
    in a tree, about sqrt(n) units of one term in a row. The condition is that of the
    variance as a difference: the square of the mean in variances, of which the sums are
    taken again where it exceeds LARGE_MEAN.
    """

    working: float
    terms: float
    condition: float

    @classmethod
    def of(cls, case, ref: oracle.BatchNorm) -> "Tolerance":
        # For float64 the oracle, in float64 too, is no better: four units for one.
        double = case.dtype == "float64"
        working = 4 * unit(np.float64) if double else unit(np.float32)
        terms = 8 + np.sqrt(np.max(ref.count, initial=1))
        ratio = ref.mean**2 / np.maximum(ref.var + case.epsilon, unit(np.float64))
        condition = 1 + 2 * float(np.max(np.minimum(ratio, LARGE_MEAN), initial=0))
        return cls(working, terms, condition)

    def check(self, got, expected, sizes=None, *, what: str) -> None:
        """Rounded once to its dtype, after arithmetic on terms of the given sizes."""
        got = np.asarray(got)
        wide = got.astype(np.float64)
        sizes = np.abs(expected) if sizes is None else sizes
        # Below the smallest normal number the distance to the next is always the same.
        subnormal = float(jnp.finfo(got.dtype).smallest_subnormal)
        allowed = unit(got.dtype) * np.abs(expected) + subnormal
        allowed = allowed + self.working * self.terms * self.condition * sizes
        assert wide.shape == np.shape(expected), f"{what}: {wide.shape}"
        off = np.abs(wide - expected)
        worst = (
            np.unravel_index(np.argmax(off - allowed), off.shape) if off.size else ()
        )
        assert np.all(off <= allowed), (
            f"{what}{list(map(int, worst))}: got {wide[worst]}, expected "
            f"{np.asarray(expected)[worst]}, off by {off[worst]:.3g} where "
            f"{np.broadcast_to(allowed, off.shape)[worst]:.3g} is allowed"
        )
