# SPDX-License-Identifier: Apache-2.0
"""Batch normalization for JAX whose numbers you can trust.

The pure functions are here and need only JAX; the Flax modules are in `jaxbn.linen` and
`jaxbn.nnx`.
"""

from jaxbn._functional import batch_norm as batch_norm
from jaxbn._functional import batch_renorm as batch_renorm
from jaxbn._moments import compute_moments as compute_moments
from jaxbn._moments import merge_moments as merge_moments
from jaxbn._normalize import normalize as normalize
from jaxbn._running_stats import init_running_stats as init_running_stats
from jaxbn._running_stats import update_running_stats as update_running_stats
from jaxbn._types import Moments as Moments
from jaxbn._types import RunningStats as RunningStats

__version__ = "0.1.0"
