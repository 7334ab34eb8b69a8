# SPDX-License-Identifier: Apache-2.0
"""The static checks of named axes and of groups along them, and their messages."""

import math
import operator
from collections.abc import Iterable, Sequence

from jax import lax

from jaxbn._checks import is_int

Groups = tuple[tuple[int, ...], ...]


def check_axis_name(axis_name: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the names, each of which must be bound."""
    if axis_name is None:
        return ()
    names = (axis_name,) if isinstance(axis_name, str) else axis_name
    if not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
        raise TypeError(
            f"`axis_name` must be a string or a sequence of strings, got {axis_name!r}."
        )
    names = tuple(names)
    if len(set(names)) < len(names):
        raise ValueError(f"`axis_name` must name each axis once, got {names}.")
    for name in names:
        try:
            lax.axis_size(name)
        except NameError:
            raise ValueError(
                f"`axis_name` must be bound, got {name!r}, which is not: call under "
                "`shard_map`, `pmap` or `vmap` with that name, or leave it None; "
                "under `jit` the statistics of a sharded batch are global without it."
            ) from None
    return names


def check_vmap_names(names: tuple[str, ...], mesh_names: tuple[str, ...]) -> None:
    """Under a checked `shard_map` JAX has no collectives over the axes of a `vmap`."""
    for name in names:
        if name not in mesh_names:
            raise ValueError(
                f"`axis_name` must name axes of the mesh under `shard_map`, got "
                f"{name!r} of a `vmap` or `pmap` beside the mesh's {mesh_names}; pass "
                "`check_vma=False` to `shard_map`, which allows both."
            )


def check_virtual_batch_size(
    virtual_batch_size: int,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    batches: Groups,
) -> None:
    """It must cut the batch, or the shards of every synchronised batch, evenly."""
    if not is_int(virtual_batch_size):
        raise TypeError(
            f"`virtual_batch_size` must be an int, got {virtual_batch_size!r}."
        )
    if virtual_batch_size < 1:
        raise ValueError(
            f"`virtual_batch_size` must be at least 1, got {virtual_batch_size}."
        )
    if 0 in axes:
        raise ValueError(
            "`virtual_batch_size` cuts axis 0 of `x`, which must not be a feature "
            f"axis, got `axis` {axes} for `x` of shape {shape}."
        )
    size = shape[0]
    if size % virtual_batch_size == 0:
        return
    if not batches:
        raise ValueError(
            f"`virtual_batch_size` must divide the batch, got {virtual_batch_size} for "
            f"{size} examples, axis 0 of `x` of shape {shape}; pad the batch and leave "
            "the padding out with `mask`."
        )
    shards = virtual_batch_size // size
    if virtual_batch_size % size or any(len(batch) % shards for batch in batches):
        raise ValueError(
            f"`virtual_batch_size` must divide the {size} examples of a shard, or be "
            "those of so many shards that the synchronised ones, "
            f"{' or '.join(str(n) for n in sorted({len(b) for b in batches}))} in "
            f"number, are cut evenly, got {virtual_batch_size}."
        )


def check_groups(
    groups: Sequence[Sequence[int]] | None, names: tuple[str, ...]
) -> Groups | None:
    """Returns the groups, which must hold every index of the axes exactly once."""
    if groups is None:
        return None
    if not names:
        raise ValueError(
            f"`axis_index_groups` must come with `axis_name`, got {groups} and no name."
        )
    size = math.prod(lax.axis_size(name) for name in names)
    nested = isinstance(groups, Iterable) and all(
        isinstance(group, Iterable) and all(map(is_int, group)) for group in groups
    )
    if not nested:
        raise TypeError(
            "`axis_index_groups` must be a sequence of sequences of ints, got "
            f"{groups!r}."
        )
    canonical = tuple(tuple(map(operator.index, group)) for group in groups)
    if sorted(index for group in canonical for index in group) != list(range(size)):
        raise ValueError(
            f"`axis_index_groups` must hold every index of `axis_name` {names}, 0 to "
            f"{size - 1}, exactly once, got {groups}."
        )
    return canonical
