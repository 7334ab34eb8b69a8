# SPDX-License-Identifier: Apache-2.0
"""Any shape, axes, mask, dtype, mean, however cut: hypothesis draws, the oracle judges.

`make fuzz` draws thousands where the suite draws 75.
"""

from typing import NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests import cases, parts, shards
from tests.cases import Case

pytestmark = pytest.mark.long


class Cut(NamedTuple):
    """How a batch is cut: into shards, groups of them, virtual batches."""

    num_shards: int = 1
    groups: list[list[int]] | None = None
    virtual_batch_size: int | None = None

    @property
    def options(self):
        groups, size = self.groups, self.virtual_batch_size
        groups = {"axis_index_groups": groups} if groups else {}
        return groups | ({"virtual_batch_size": size} if size else {})

    def parts(self, num_examples):
        """Of each batch its examples, a shard that knows its moments, and their row."""
        held = np.arange(num_examples).reshape(self.num_shards, -1)
        size, local = self.virtual_batch_size, held.shape[1]
        batches = self.groups or [list(range(self.num_shards))]
        if size is None or not num_examples:
            rows = ... if size is None else 0
            return [(held[batch].ravel(), batch[0], rows) for batch in batches]
        found, row = [], 0
        for batch in batches:
            for examples in held[batch].reshape(-1, size):
                first = examples[0]
                # Within a shard they are stacked by shard, else by batch.
                found.append(
                    (examples, batch[0], first // size if size <= local else row)
                )
                row += 1
        return found


@st.composite
def cuts(draw, local, sharded):
    """A cut of shards of `local` examples."""
    num = draw(st.sampled_from([1, 2, 3, 4, 8])) if sharded else 1
    order = draw(st.permutations(range(num)))
    kind = draw(st.sampled_from(["whole", "groups", "virtual"]))
    groups = None
    if sharded and (kind == "groups" or (kind == "virtual" and draw(st.booleans()))):
        ends = sorted(draw(st.sets(st.integers(1, num), max_size=3)) | {num})
        starts = [0, *ends[:-1]]
        groups = [order[a:b] for a, b in zip(starts, ends, strict=True)]
    if kind != "virtual":
        return Cut(num, groups)
    shortest = np.gcd.reduce([len(g) for g in groups or [order]])
    sizes = [size for size in range(1, local + 1) if local % size == 0] or [1, 5]
    sizes += [k * local for k in range(2, shortest + 1) if shortest % k == 0 and local]
    return Cut(num, groups, draw(st.sampled_from(sizes)))


outliers = st.none() | st.tuples(st.floats(0, 1), st.sampled_from([-30.0, 1e3, 1e6]))


@st.composite
def draws(draw, sharded):
    """A case with a name that seeds its numbers, and how it is cut."""
    shape = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    kept_whole = not sharded and draw(st.integers(0, 3)) == 0
    axes = range(len(shape)) if kept_whole else range(1, len(shape))
    axes = draw(st.permutations(axes))
    axes = axes[: draw(st.integers(1, max(1, min(len(axes), len(shape) - 1))))]
    if 0 not in axes and draw(st.integers(0, 9)) == 0:
        shape[0] = 0
    cut = Cut() if 0 in axes else draw(cuts(shape[0], sharded))
    shape[0] *= cut.num_shards
    # The kinds that align with the leading axes need the features to be last.
    kinds = [None, "same_rank", "every_example", "by_feature", "by_feature_weights"]
    if sorted(axes) == [len(shape) - 1] and shape[0] > 1:
        kinds += ["examples", "steps", "integers", "weights", "one", "nothing"]
    dtype = draw(st.sampled_from(["float32", "float64", "float16", "bfloat16"]))
    mean = draw(st.sampled_from([0.0, -1.0, 100.0, 1e4, -1e4]))
    axis = tuple(a - draw(st.sampled_from([0, len(shape)])) for a in axes)
    case = Case(
        name=f"drawn {draw(st.integers(0, 2**32))}",
        shape=tuple(shape),
        axis=axis[0] if len(axes) == 1 and draw(st.booleans()) else axis,
        dtype=dtype,
        mean=mean if dtype in ("float32", "float64") else np.sign(mean),
        deviation=draw(st.sampled_from([1.0, 1e-3, 0.0])),
        mask=draw(st.sampled_from(kinds)),
        density=draw(st.sampled_from([0.1, 0.6, 0.9])),
        affine=draw(st.booleans()),
        residual=draw(st.booleans()),
        activation=draw(st.sampled_from(list(cases.ACTIVATIONS))),
        outlier=draw(outliers) if dtype in ("float32", "float64") else None,
    )
    return case, cut


def values_of_a_part(case, cut, examples):
    """How many values a feature has where nothing is synchronised."""
    local = case.shape[0] // cut.num_shards
    if len(examples) > local:
        return None
    axes = [a % len(case.shape) for a in np.atleast_1d(case.axis)]
    sizes = [len(examples), *case.shape[1:]]
    return int(np.prod([s for a, s in enumerate(sizes) if a not in axes]))


@pytest.mark.parametrize("mode", ["whole", *shards.MODES])
@given(data=st.data())
def test_forward_and_backward(mode, data):
    sharded = mode != "whole"
    case, cut = data.draw(draws(sharded))
    batches = cut.parts(case.shape[0])
    if not sharded or cut.virtual_batch_size:
        # One value per feature is refused, as a test of the errors says.
        assume(values_of_a_part(case, cut, batches[0][0]) != 1)
    with jax.enable_x64(case.dtype == "float64"):
        arrays = cases.make(case)
        if case.activation == "relu":
            of_parts = [parts.take(arrays, examples) for examples, *_ in batches]
            assume(not any(cases.reference(case, p).near_kink() for p in of_parts))
        if sharded:
            result = shards.run(mode, case, arrays, cut.num_shards, **cut.options)
            moments = result.moments
        else:
            result = shards.run_whole(case, arrays, **cut.options)
            moments = jax.tree.map(lambda m: m[None], result.moments)
        picked = [
            jax.tree.map(lambda m, s=s, r=r: np.asarray(m)[s][r], moments)
            for _, s, r in batches
        ]
        stacked = jax.tree.map(lambda *m: np.stack(m), *picked)
        parts.check(case, arrays, [e for e, _, _ in batches], result, stacked)
