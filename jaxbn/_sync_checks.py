# SPDX-License-Identifier: Apache-2.0
"""The static checks of named axes and of groups along them, and their messages."""

import math
import operator
from collections.abc import Sequence

from jax import lax

Groups = tuple[tuple[int, ...], ...]


def check_axis_name(axis_name: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the names, each of which must be bound."""
    if axis_name is None:
        return ()
    names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)
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
    canonical = tuple(tuple(map(operator.index, group)) for group in groups)
    if sorted(index for group in canonical for index in group) != list(range(size)):
        raise ValueError(
            f"`axis_index_groups` must hold every index of `axis_name` {names}, 0 to "
            f"{size - 1}, exactly once, got {groups}."
        )
    return canonical
