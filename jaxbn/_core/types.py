# SPDX-License-Identifier: Apache-2.0
"""The two records that batch norm passes around, and the axis letters of every type.

The letters, in `jaxtyping` annotations and in docstrings:

- `*n`: the whole shape of the input `x`, any rank;
- `*c`: the sizes of the feature axes of `x`, in increasing order of axis, one letter
  group for the usual single axis and for several;
- `*#c`: the same, with a row for each example, or one for all, where examples differ;
- `*g`: statistics groups, stacked in front; empty for one batch;
- `*gc`: groups, then features;
- `b`, `h`, `w`, `t`: batch, height, width and time, in examples.
"""

from typing import NamedTuple

from jax import export
from jaxtyping import Array, Float, Inexact


class Moments(NamedTuple):
    """The statistics of one batch.

    Attributes:
        mean: the mean of the values that count, per feature; complex where they are.
        var: their mean squared deviation (biased), per feature, at least 0.
        count: the number or the weight of the values per feature. Mostly the same for
            every feature, so that its shape has no feature axes; of those of `mean`
            where the mask differs between features.
    """

    mean: Inexact[Array, "*gc"]
    var: Float[Array, "*gc"]
    count: Float[Array, "..."]


class RunningStats(NamedTuple):
    """The statistics that inference uses.

    Attributes:
        mean: the running mean, per feature; 0 before the first update.
        var: the running variance, per feature; 1 before the first update.
        count: the number of updates so far, per feature.
    """

    mean: Inexact[Array, "*c"]
    var: Float[Array, "*c"]
    count: Float[Array, "*c"]


for record in (Moments, RunningStats):  # in and out of what `jax.export` serializes
    export.register_namedtuple_serialization(
        record, serialized_name=f"jaxbn.{record.__name__}"
    )
