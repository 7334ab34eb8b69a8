# SPDX-License-Identifier: Apache-2.0
"""Parts of a batch, each a batch of its own, held against the oracle."""

import jax
import numpy as np

from tests import cases


def of_groups(moments, groups):
    """Of moments by shard, those of each group, which its shards agree on."""
    for group in groups:
        for value in moments:
            same = np.broadcast_to(value[group[0]], value[np.array(group)].shape)
            np.testing.assert_array_equal(value[np.array(group)], same)
    first = np.array([group[0] for group in groups])
    return jax.tree.map(lambda m: m[first], moments)


def take(data, examples):
    """The data of these examples."""
    whole = len(data.x)

    def rows(a):
        return a if a is None or len(a) != whole else a[examples]

    cut = {k: rows(getattr(data, k)) for k in ("x", "residual", "mask", "dy")}
    return data._replace(**cut)


def check(case, data, examples, result, moments):
    """Holds outputs, stacked moments and gradients against the oracle of each part."""
    dx, dscale, dbias, dr = result.together
    sums = []
    for k, part in enumerate(examples):
        one = take(data, part)
        of_part = jax.tree.map(lambda m, k=k: m[k], moments)
        cases.check_forward(case, one, result.y[part], of_part)
        inputs = dx[part], None, None, None if dr is None else dr[part]
        cases.check_gradients(case, one, inputs)
        ref = cases.reference(case, one)
        both = ref.backward(one.dy, one.dmean, one.dvar)
        sums.append((both, cases.Tolerance.of(case, ref)))
    if not case.affine:
        return
    tolerance = max((t for _, t in sums), key=lambda t: t.terms * t.condition)
    for name, got in (("scale", dscale), ("bias", dbias)):
        expected, sizes = (
            sum(getattr(both[k], name) for both, _ in sums) for k in range(2)
        )
        wide = tolerance._replace(terms=tolerance.terms + len(examples))
        wide.check(got, expected, sizes, what=f"gradient of {name}")
