# SPDX-License-Identifier: Apache-2.0
"""The errors of named axes and groups: a call that raises each, its type, its text."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxbn

X = jnp.ones((8, 4, 3))


def mixed_names():
    def norm(x):
        return jaxbn.batch_norm(x, axis_name=("v", "a"))[0]

    mesh = jax.make_mesh((2,), ("a",), axis_types=(AxisType.Auto,))
    spec = P("a")
    local = jax.vmap(norm, axis_name="v")
    return jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec)(X)


def over_i(**sync):
    return jax.vmap(lambda x: jaxbn.compute_moments(x, **sync), axis_name="i")(X)


ERRORS = [
    (
        lambda: jaxbn.batch_norm(X, axis_name=3),
        TypeError,
        "`axis_name` must be a string or a sequence of strings, got 3.",
    ),
    (
        lambda: over_i(axis_name=("i", "i")),
        ValueError,
        "`axis_name` must name each axis once, got ('i', 'i').",
    ),
    (
        lambda: over_i(axis_name="i", axis_index_groups=[0, 1]),
        TypeError,
        "`axis_index_groups` must be a sequence of sequences of ints, got [0, 1].",
    ),
    (
        lambda: jaxbn.batch_norm(X, axis_name="nope"),
        ValueError,
        (
            "`axis_name` must be bound, got 'nope', which is not: call under `shard_map`, "
            "`pmap` or `vmap` with that name, or leave it None; under `jit` the "
            "statistics of a sharded batch are global without it."
        ),
    ),
    (
        lambda: jaxbn.compute_moments(X, axis_index_groups=[[0, 1]]),
        ValueError,
        ("`axis_index_groups` must come with `axis_name`, got [[0, 1]] and no name."),
    ),
    (
        lambda: over_i(axis_name="i", axis_index_groups=[[0, 1], [3, 2, 1]]),
        ValueError,
        (
            "`axis_index_groups` must hold every index of `axis_name` ('i',), 0 to 7, "
            "exactly once, got [[0, 1], [3, 2, 1]]."
        ),
    ),
    (
        mixed_names,
        ValueError,
        (
            "`axis_name` must name axes of the mesh under `shard_map`, got 'v' of a "
            "`vmap` or `pmap` besides the mesh's ('a',); pass `check_vma=False` to "
            "`shard_map`, which allows both."
        ),
    ),
    (
        lambda: jaxbn.batch_norm(X, virtual_batch_size=2.0),
        TypeError,
        "`virtual_batch_size` must be an int, got 2.0.",
    ),
    (
        lambda: jaxbn.batch_norm(X, virtual_batch_size=0),
        ValueError,
        "`virtual_batch_size` must be at least 1, got 0.",
    ),
    (
        lambda: jaxbn.compute_moments(X, axis=0, virtual_batch_size=2),
        ValueError,
        (
            "`virtual_batch_size` cuts axis 0 of `x`, which must not be a feature axis, "
            "got `axis` (0,) for `x` of shape (8, 4, 3)."
        ),
    ),
    (
        lambda: jaxbn.compute_moments(X, virtual_batch_size=3),
        ValueError,
        (
            "`virtual_batch_size` must divide the batch, got 3 for 8 examples, axis 0 of "
            "`x` of shape (8, 4, 3); pad the batch and leave the padding out with `mask`."
        ),
    ),
    (
        lambda: over_i(
            virtual_batch_size=8,
            axis_name="i",
            axis_index_groups=[[0, 1, 2], [3, 7, 6, 5, 4]],
        ),
        ValueError,
        (
            "`virtual_batch_size` must divide the 4 examples of a shard, or be a "
            "multiple of them that cuts the 3 or 5 synchronised shards evenly, got 8."
        ),
    ),
]
