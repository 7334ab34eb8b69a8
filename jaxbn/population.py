# SPDX-License-Identifier: Apache-2.0
"""The statistics of a whole population for the batch norms of a Linen or NNX model.

Running averages are of the last few batches, each computed by other weights. These are
of all examples, computed by the final weights: "precise" statistics for inference, for
averaged weights (EMA, SWA), or of the data that a model is used on.
"""

from jaxbn._population.linen import estimate_linen
from jaxbn._population.nnx import estimate_nnx
from jaxbn._population.passes import PopulationReport

__all__ = ["PopulationReport", "estimate_linen", "estimate_nnx"]
