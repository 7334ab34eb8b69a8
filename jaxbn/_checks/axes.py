# SPDX-License-Identifier: Apache-2.0
"""Checks of axes: feature axes, named axes and groups along them, virtual batches."""

import math
import operator
from collections.abc import Iterable, Sequence

from jax import lax

from jaxbn._checks.kinds import is_int, is_iterable

Groups = tuple[tuple[int, ...], ...]


def check_axis(axis: int | Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the feature axes, non-negative and in increasing order."""
    axes = tuple(axis) if isinstance(axis, Iterable) else (axis,)
    if not all(map(is_int, axes)):
        raise TypeError(f"`axis` must be an int or a sequence of ints, got {axis!r}.")
    ndim = len(shape)
    for one in axes:
        if not -ndim <= one < ndim:
            raise ValueError(
                f"`axis` must be in [-{ndim}, {ndim}), got {one} for `x` of shape "
                f"{shape}."
            )
    canonical = sorted({operator.index(one) % ndim for one in axes})
    if not canonical or len(canonical) != len(axes):
        raise ValueError(
            f"`axis` must name each feature axis once and at least one, got {axis} for "
            f"`x` of shape {shape}."
        )
    return tuple(canonical)


def axis_names(axis_name: object) -> tuple[str, ...]:
    """Returns the names, whether bound or not."""
    if axis_name is None:
        return ()
    given: list[object] = [axis_name]
    if isinstance(axis_name, Sequence) and not isinstance(axis_name, str):
        given = list(axis_name)
    names = tuple(name for name in given if isinstance(name, str))
    if len(names) != len(given):
        raise TypeError(
            f"`axis_name` must be a string or a sequence of strings, got {axis_name!r}."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"`axis_name` must name each axis once, got {names}.")
    return names


def check_axis_name(axis_name: object) -> tuple[str, ...]:
    """Returns the names, each of which must be bound."""
    names = axis_names(axis_name)
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
                f"{name!r} of a `vmap` or `pmap` besides the mesh's {mesh_names}; pass "
                "`check_vma=False` to `shard_map`, which allows both."
            )


def check_part_size(virtual_batch_size: object) -> int | None:
    """Returns `virtual_batch_size`, a positive number or None."""
    if virtual_batch_size is None:
        return None
    if not is_int(virtual_batch_size):
        raise TypeError(
            f"`virtual_batch_size` must be an int, got {virtual_batch_size!r}."
        )
    size = operator.index(virtual_batch_size)
    if size < 1:
        raise ValueError(f"`virtual_batch_size` must be at least 1, got {size}.")
    return size


def check_virtual_batch_size(
    virtual_batch_size: object,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    batches: Groups,
) -> None:
    """It must cut the batch, or the shards of every synchronised batch, evenly."""
    virtual_batch_size = check_part_size(virtual_batch_size)
    if virtual_batch_size is None:
        return
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
        numbers = " or ".join(str(n) for n in sorted({len(b) for b in batches}))
        raise ValueError(
            f"`virtual_batch_size` must divide the {size} examples of a shard, or be a "
            f"multiple of them that cuts the {numbers} synchronised shards evenly, got "
            f"{virtual_batch_size}."
        )


def check_groups(groups: object, names: tuple[str, ...]) -> Groups | None:
    """Returns the groups, which must hold every index of the axes exactly once."""
    if groups is None:
        return None
    if not names:
        raise ValueError(
            f"`axis_index_groups` must come with `axis_name`, got {groups} and no name."
        )
    size = math.prod(lax.axis_size(name) for name in names)
    given = tuple(groups) if is_iterable(groups) else (groups,)
    nested = [tuple(group) if is_iterable(group) else (None,) for group in given]
    indices = [[operator.index(i) for i in group if is_int(i)] for group in nested]
    if [len(group) for group in indices] != [len(group) for group in nested]:
        raise TypeError(
            "`axis_index_groups` must be a sequence of sequences of ints, got "
            f"{groups!r}."
        )
    canonical = tuple(map(tuple, indices))
    if sorted(index for group in canonical for index in group) != list(range(size)):
        raise ValueError(
            f"`axis_index_groups` must hold every index of `axis_name` {names}, 0 to "
            f"{size - 1}, exactly once, got {groups}."
        )
    return canonical
