# SPDX-License-Identifier: Apache-2.0
"""What an array's type says of a mesh: how it is sharded, over which axes it varies."""

import contextlib
import math
from typing import Any, TypeVar

import jax
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Shaped

Vectors = TypeVar("Vectors", bound=tuple[Any, ...])


def manual_axes() -> tuple[str, ...]:
    """The mesh axes that an enclosing `shard_map` maps over."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def varying_axes(x: Shaped[Array, "..."]) -> frozenset[str]:
    """The mesh axes over which `x` varies."""
    kind = jax.typeof(x)
    if hasattr(kind, "vma"):  # before JAX 0.12
        return frozenset(kind.vma)
    return frozenset(kind.manual_axis_type.varying)


def vary_like(
    x: Float[Array, "..."], like: Shaped[Array, "..."]
) -> Float[Array, "..."]:
    """Marks `x` as varying over the mesh axes that `like` varies over.

    JAX would do so wherever the two meet, and transpose each of these places to a
    `psum`. Changes nothing except under `shard_map(check_vma=True)`.
    """
    missing = tuple(sorted(varying_axes(like) - varying_axes(x)))
    return lax.pcast(x, missing, to="varying") if missing else x


def vary_together(vectors: Vectors, like: Float[Array, "..."]) -> Vectors:
    """As `vary_like`, of all that vary less, packed: the transpose is one `psum`."""
    leaves, structure = jax.tree.flatten(vectors)
    varying = varying_axes(like)
    # What another axis of the mesh cuts cannot be packed.
    leaves = [vary_like(leaf, like) if is_sharded(leaf) else leaf for leaf in leaves]
    alike = [i for i, leaf in enumerate(leaves) if varying - varying_axes(leaf)]
    packed, unpack = ravel_pytree([leaves[i] for i in alike])
    for i, leaf in zip(alike, unpack(vary_like(packed, like)), strict=True):
        leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


def is_sharded(x: Shaped[Array, "..."]) -> bool:
    """Whether `x` is sharded over a mesh axis that is part of its type."""
    return any(part is not None for part in jax.typeof(x).sharding.spec)


def shard_like(
    x: Shaped[Array, "*n"], like: Shaped[Array, "*n"]
) -> Shaped[Array, "*n"]:
    """Returns `x` sharded as another array is, where its type says how."""
    sharding = jax.typeof(like).sharding
    if sharding.mesh.empty or jax.typeof(x).sharding.spec == sharding.spec:
        return x
    return jax.sharding.reshard(x, sharding)


def shard_as_examples(
    vector: Shaped[Array, " n"], x: Shaped[Array, "n ..."]
) -> Shaped[Array, " n"]:
    """Returns a vector sharded over the mesh as the first axis of `x` is."""
    sharding = jax.typeof(x).sharding
    theirs = jax.typeof(vector).sharding
    mesh = theirs.mesh if sharding.mesh.empty else sharding.mesh
    first = jax.P(sharding.spec[0])
    if mesh.empty or theirs.spec == first:
        return vector
    return jax.sharding.reshard(vector, jax.NamedSharding(mesh, first))


def gathered_unless(num: int, x: Shaped[Array, "n ..."]) -> Shaped[Array, "n ..."]:
    """Returns `x` with its first axis whole, unless each shard has whole parts of it.

    That is, unless `num` parts of equal size can be sharded over the mesh as `x` is.
    """
    sharding = jax.typeof(x).sharding
    first, *others = sharding.spec
    names = (first,) if isinstance(first, str) else first or ()
    shards = math.prod(sharding.mesh.shape[name] for name in names)
    if num % shards == 0:
        return x
    whole = sharding.update(spec=jax.P(None, *others))
    return jax.sharding.reshard(x, whole)


def in_mesh_of(x: Shaped[Array, "..."]) -> contextlib.AbstractContextManager[Any]:
    """Sets the mesh that `x` is sharded over by its type, unless one is set.

    JAX computes without one, but for some functions under `vmap`. Where there is no
    mesh, that is set explicitly, as JAX does in the rule of a derivative: JAX traces
    again where the one is set and the other is not.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty and is_sharded(x):
        mesh = jax.typeof(x).sharding.mesh
    return jax.sharding.use_abstract_mesh(mesh)
