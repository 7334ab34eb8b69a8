# SPDX-License-Identifier: Apache-2.0
"""Five steps of a small convolutional net, in one process of several.

`python -m tests.core.distributed_worker PROCESS NUM_PROCESSES PORT FILE`: the
processes form one mesh of four devices over loopback; each writes what it ends with.
"""

import functools
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxbn.linen import BatchNorm

SHARDS, SLOTS, STEPS = 4, 8, 5
# How many examples the shards hold in the first step; they move on from step to step.
COUNTS = np.array([8, 5, 1, 0])
DTYPES = ("float32", "float64")


class Net(nn.Module):
    """Two convolutions with batch norm."""

    axis_name: str | None
    dtype: str

    @nn.compact
    def __call__(self, x, mask=None):
        for channels, stride in ((8, 1), (16, 2)):
            x = nn.Conv(
                channels, (3, 3), stride, use_bias=False, param_dtype=self.dtype
            )(x)
            norm = BatchNorm(
                use_running_average=False,
                momentum=0.9,
                axis_name=self.axis_name,
                param_dtype=self.dtype,
                activation=jax.nn.relu,
            )
            x = norm(x, mask=mask)
        return nn.Dense(10, param_dtype=self.dtype)(x.mean((1, 2)))


def batch(step, dtype):
    """Slots of all shards; what stands in those without an example is far off."""
    rng = np.random.default_rng(0)
    images = rng.normal(0.3, 0.4, (STEPS * COUNTS.sum(), 8, 8, 1))
    labels = rng.integers(0, 10, len(images)).astype(np.int32)
    counts = np.roll(COUNTS, step)
    mask = (np.arange(SLOTS) < counts[:, None]).ravel()
    chosen = np.zeros(len(mask), int)
    chosen[mask] = np.arange(mask.sum()) + step * COUNTS.sum()
    image = images[chosen].astype(dtype)
    image[~mask] = 1e3
    return image, labels[chosen], mask


def init(dtype):
    """Outside of any map, where no axis is bound."""
    net = Net(axis_name="shards", dtype=dtype)
    return jax.jit(net.init)(jax.random.key(0), jnp.ones((2, 8, 8, 1), dtype))


def train_step(net, variables, image, label, mask, count):
    """One step of SGD on the mean over the examples that count."""

    def loss(params):
        logits, updates = net.apply(
            {**variables, "params": params}, image, mask, mutable=["batch_stats"]
        )
        each = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return jnp.where(mask, each, 0).sum() / count, updates["batch_stats"]

    gradient, stats = jax.grad(loss, has_aux=True)(variables["params"])
    params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient)
    return {"params": params, "batch_stats": stats}


def train_alone(dtype):
    """The same of one batch on one device: exactly the examples that count."""
    variables = init(dtype)
    step = jax.jit(functools.partial(train_step, Net(axis_name=None, dtype=dtype)))
    for number in range(STEPS):
        image, label, mask = batch(number, dtype)
        held = image[mask], label[mask], mask[mask]
        variables = step(variables, *held, mask.sum().astype(dtype))
    return variables


def train_together(dtype):
    """Shards of several processes; each hands over those of its own devices."""
    mesh = jax.make_mesh((SHARDS,), ("shards",), axis_types=(AxisType.Auto,))
    cut = NamedSharding(mesh, P("shards"))
    net = Net(axis_name="shards", dtype=dtype)

    def local(variables, image, label, mask):
        count = jax.lax.psum(mask.sum(), "shards").astype(dtype)
        return train_step(net, variables, image, label, mask, count)

    shards = (P("shards"),) * 3
    step = jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(P(), *shards), out_specs=P())
    )
    per_process = SHARDS * SLOTS // jax.process_count()
    mine = slice(jax.process_index() * per_process, None)
    everywhere = NamedSharding(mesh, P())  # as they come back: one program
    variables = jax.tree.map(
        lambda a: jax.make_array_from_process_local_data(everywhere, np.asarray(a)),
        init(dtype),
    )
    for number in range(STEPS):
        share = (a[mine][:per_process] for a in batch(number, dtype))
        variables = step(
            variables,
            *(jax.make_array_from_process_local_data(cut, a) for a in share),
        )
    return variables


def join(process, num_processes, port):
    """Makes this one of `num_processes` processes that share four devices."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", SHARDS // int(num_processes))
    jax.distributed.initialize(
        f"localhost:{port}", int(num_processes), int(process), initialization_timeout=60
    )


def main(process, num_processes, port, file):
    """Trains in each dtype, and writes the leaves of what comes out."""
    jax.config.update("jax_enable_x64", True)
    join(process, num_processes, port)
    results = {dtype: train_together(dtype) for dtype in DTYPES}
    leaves = jax.tree.leaves(results)
    np.savez(Path(file), *map(np.asarray, leaves))


if __name__ == "__main__":
    main(*sys.argv[1:])
