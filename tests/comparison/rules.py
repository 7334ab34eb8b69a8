# SPDX-License-Identifier: Apache-2.0
"""What inference uses, by each library's own rule, from the moments of the batches."""

import numpy as np

from tests.comparison.scenarios import EPSILON, MOMENTUM


def running_average(moments):
    """From 0 and 1, biased variance; what has no values changes nothing."""
    mean, var = 0.0, 1.0
    for batch_mean, batch_var, count in moments:
        if count:
            mean = MOMENTUM * mean + (1 - MOMENTUM) * batch_mean
            var = MOMENTUM * var + (1 - MOMENTUM) * batch_var
    return mean, var


def debiased(moments):
    """The same from 0, divided by the weight of what was seen."""
    mean, var = running_average(moments)
    seen = 1 - MOMENTUM ** sum(count > 0 for *_, count in moments)
    return (mean / seen, (var - (1 - seen)) / seen) if seen else (0.0, 1.0)


def unbiased(moments):
    """With Bessel's correction of the variance."""
    return [(m, v * n / (n - 1) if n > 1 else v, n) for m, v, n in moments]


def bessel(moments):
    """The running average of unbiased variances."""
    return running_average(unbiased(moments))


def average(moments):
    """The plain average of all batches."""
    return tuple(np.mean([m[k] for m in moments], 0) for k in range(2))


def of_deviations(moments):
    """Keras's with renorm: the running average of the deviation, squared."""
    mean, _ = running_average(moments)
    deviations = [(m, np.sqrt(v + EPSILON), n) for m, v, n in moments]
    return mean, running_average(deviations)[1] ** 2 - EPSILON


of_deviations.first_deviation = 1.0  # without epsilon, which the later ones have


def merged(moments):
    """Of all values of all batches, of one size, together."""
    means, variances, _ = (np.stack(column) for column in zip(*moments, strict=True))
    return means.mean(0), variances.mean(0) + means.var(0)


RULES = {"debias": debiased, "average": average, "unbiased": bessel}
RULES |= {"renorm": running_average, "population": merged}
