# SPDX-License-Identifier: Apache-2.0
"""The statistics of a whole population for the batch norms of a Linen or NNX model.

Running averages are of the last few batches, each seen by other weights. These are of
all the examples there are, seen by the weights there are: "precise" statistics for
inference, for averaged weights (EMA, SWA), or of the data that a model is used on.
"""

from jaxbn._population import PopulationReport as PopulationReport
from jaxbn._population_linen import estimate_linen as estimate_linen
from jaxbn._population_nnx import estimate_nnx as estimate_nnx
