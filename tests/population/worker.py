# SPDX-License-Identifier: Apache-2.0
"""Population statistics in one process of two: own batches, then shared arrays."""

import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.core import distributed_worker as together
from tests.population.nets import ESTIMATES, make_batches, start

SHARE = (slice(0, 4), slice(4, 5))  # of the batches; none for the other is tried too
NOTHING = (slice(0, 5), slice(0, 0))
PRIOR = 20.0


def batches():
    """The same in all processes."""
    return make_batches(np.random.default_rng(0))


def own(share):
    """Each process has some of the batches, one of them perhaps none."""
    mine = batches()[share[jax.process_index()]]
    how = {"layerwise": True, "prior_count": PRIOR, "progress": False}
    return ESTIMATES["linen"](start(), mine, **how)


def shared():
    """Batches cut over the devices of both."""
    mesh = jax.make_mesh((together.SHARDS,), ("i",), axis_types=(AxisType.Auto,))
    cut = NamedSharding(mesh, P("i"))
    mine = slice(8 * jax.process_index(), 8 * jax.process_index() + 8)
    full = [
        tuple(jax.make_array_from_process_local_data(cut, a[mine]) for a in batch)
        for batch in filled()
    ]
    how = {"layerwise": True, "prior_count": PRIOR, "progress": False}
    return ESTIMATES["linen"](start(), full, **how)


def filled():
    """With a mask each, those of a size that can be cut."""
    made = [(x, np.ones(len(x), bool) if m is None else m) for x, m in batches()]
    return [batch for batch in made if len(batch[0]) == 16]


def main(process, num_processes, port, file):
    """Writes the leaves of what comes out."""
    together.join(process, num_processes, port)
    results = [own(SHARE), own(NOTHING), shared()]
    stats = [variables["batch_stats"] for variables, _ in results]
    counts = [report.num_batches for _, report in results]
    np.savez(file, *map(np.asarray, jax.tree.leaves((stats, counts))))


if __name__ == "__main__":
    main(*sys.argv[1:])
