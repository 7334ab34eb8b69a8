# SPDX-License-Identifier: Apache-2.0
"""Checks of modules and of the variables of models."""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp


def check_train_flag(use_running_average: bool | None) -> bool:
    """`use_running_average` must be given to the constructor or to the call."""
    if use_running_average is None:
        raise ValueError(
            "`use_running_average` must be given to the constructor or to the call, "
            "got None in both; `model.train()` and `model.eval()` set it too."
        )
    return use_running_average


def check_given_once(name: str, *, learned: bool, given: bool) -> None:
    """`scale` or `bias` is learned by the layer, or given at the call."""
    if learned and given:
        raise ValueError(
            f"`{name}` must be learned by the layer or given at the call, got both; "
            f"construct the layer with `use_{name}=False`."
        )


def check_has_count(path: tuple[str, ...], momentum: object) -> None:
    """A plain average must know how many updates there were."""
    if momentum is None:
        place = "".join(f'["{name}"]' for name in ("batch_stats", *path))
        raise ValueError(
            f"`variables{place}` must have `count` with `momentum=None`, got `mean` "
            "and `var` alone, as a layer with a momentum stores them. Say how many "
            f'updates they stand for: `variables{place}["count"] = '
            "jnp.full_like(var, 1000)`, or keep a `momentum`."
        )


def check_counts(has_count: bool) -> None:
    """A layer must have been made with the fields for which it counts."""
    if not has_count:
        raise ValueError(
            "`count` must be in a layer with `debias`, `momentum=None` or a schedule; "
            "one of them was set after it was made. Set it in the constructor, or add "
            "`norm.count = nnx.BatchStat(jnp.zeros_like(norm.var[...]))`."
        )


def check_same_variables(given: Mapping[str, Any], module: Mapping[str, Any]) -> None:
    """`variables`, by path, must have the names and shapes of the module's."""
    missing, unknown = _other_names(module, given), _other_names(given, module)
    if missing or unknown:
        raise ValueError(
            "`variables` must have the names of `module`; it lacks "
            f"{missing or 'nothing'}, and also has {unknown or 'nothing'}."
        )
    for path, value in given.items():
        if jnp.shape(value) != jnp.shape(module[path]):
            raise ValueError(
                f"`variables` must have the shapes of `module`, got "
                f"{jnp.shape(value)} for `{path}`, which has "
                f"{jnp.shape(module[path])}."
            )


def _other_names(names: Collection[str], known: Collection[str]) -> list[str]:
    return sorted(set(names) - set(known))
