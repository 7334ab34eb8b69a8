# SPDX-License-Identifier: Apache-2.0
"""A diagnosis in one process of two, whose statistics are equal or are not.

`python -m tests.diagnosis.worker PROCESS NUM_PROCESSES PORT FILE`: writes the findings
of each way to hold the variables.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.core import distributed_worker as together
from tests.diagnosis.nets import diagnosed, healthy, make_batches

DIFFERENCE = 0.01


def plant(variables, *, differ):
    """The second process has another variance of `norm1`."""
    own = variables["batch_stats"]["norm1"]
    own["var"] = np.asarray(own["var"]) + DIFFERENCE * jax.process_index() * differ
    return variables


def shared(variables):
    """Arrays of both processes: each holds its own as the copy of all."""
    mesh = jax.make_mesh((together.SHARDS,), ("i",), axis_types=(AxisType.Auto,))
    everywhere, cut = NamedSharding(mesh, P()), NamedSharding(mesh, P("i"))

    def replicated(value):
        copies = [jax.device_put(value, device) for device in jax.local_devices()]
        return jax.make_array_from_single_device_arrays(value.shape, everywhere, copies)

    def split(batch):
        batch = np.asarray(batch)
        return jax.make_array_from_callback(batch.shape, cut, lambda i: batch[i])

    return jax.tree.map(replicated, variables), list(map(split, make_batches()))


def main(process, num_processes, port, file):
    """Each way, with equal and with different statistics."""
    together.join(process, num_processes, port)
    found = {}
    for differ in (False, True):
        for name, (variables, batches) in {
            "own": (plant(healthy(), differ=differ), make_batches()),
            "shared": shared(plant(healthy(), differ=differ)),
        }.items():
            alarms = diagnosed(variables, batches).alarms
            text = "; ".join(f"{f.layer}: {f.check}: {f.figure}" for f in alarms)
            found[f"{name}, {differ}"] = np.array(text)
    np.savez(Path(file), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
