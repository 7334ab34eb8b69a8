# SPDX-License-Identifier: Apache-2.0
"""Checks of what a diagnosis is made from."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbn._checks.kinds import is_int


def check_steps(steps: object) -> None:
    """`steps` must be a whole number of updates, or None."""
    if steps is None:
        return
    if not is_int(steps):
        raise TypeError(f"`steps` must be an int or None, got {steps!r}.")
    if int(steps) < 0:
        raise ValueError(f"`steps` must be at least 0, got {steps}.")


_MASK = "`decay_mask` must be a pytree of booleans like `params`, or a function of it"


def check_decay_kinds(mask: Mapping[str, Any]) -> None:
    """The leaves of a mask, by path, must be booleans."""
    for path, leaf in mask.items():
        shape = np.shape(leaf)
        if shape or not jnp.issubdtype(jnp.result_type(leaf), jnp.bool_):
            where = f" at `{path}`" if path else ""
            text = f"an array of shape {shape}" if shape else repr(leaf)
            raise TypeError(f"{_MASK}, got {text}{where}.")


def check_decay_paths(mask: Collection[str], params: Collection[str]) -> None:
    """A mask must be of these parameters, and of no others."""
    lacks = [path for path in params if path not in mask]
    others = [path for path in mask if path not in params]
    for found, text in ((lacks, "lacks"), (others, "has, and `params` has not,")):
        if found:
            paths = ", ".join(f"`{path}`" for path in found[:3])
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise ValueError(f"{_MASK}, got one that {text} {paths}{more}.")


def check_has_examples(batch: Any, number: int) -> None:
    """A batch must have an example."""
    for path, leaf in jax.tree.leaves_with_path(batch):
        if jnp.shape(leaf)[:1] == (0,):
            raise ValueError(
                f"`batches` must have at least one example each, got batch {number}"
                f"{_name(path, ' with')} of shape {jnp.shape(leaf)}; leave empty "
                "batches out."
            )


def check_batch_is_finite(batch: Any, number: int) -> None:
    """Where the input of a norm is not finite, that must not come from the batch."""
    for path, leaf in jax.tree.leaves_with_path(batch):
        inexact = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        if inexact and not jnp.all(jnp.isfinite(leaf)):
            raise ValueError(
                f"`batches` must be finite where they count, got NaN or infinity in "
                f"batch {number}{_name(path, ',')}; mask padding, or repair the data."
            )


def check_several_values(num_values: Mapping[str, int | None]) -> None:
    """Some norm must have more than one value per feature."""
    if num_values and all(number == 1 for number in num_values.values()):
        paths = ", ".join(f"`{path}`" for path in num_values)
        raise ValueError(
            "`batches` must give the norms at least two values per feature, got one "
            f"example in each batch for {paths}; use the batch size of training."
        )


def check_any_measured(ran: Collection[str]) -> None:
    """Where no layer recorded moments, none must have run as in training."""
    if ran:
        paths = ", ".join(f"`{path}`" for path in ran)
        raise ValueError(
            "at least one batch norm must be measured, but of those that ran as in "
            f"training, {paths}, each is a subclass whose `__call__` does not call "
            "`super().__call__`, or has a mask that leaves all values out."
        )


def _name(path: tuple[Any, ...], before: str) -> str:
    """The leaf of a batch; nothing for a batch that is one array."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return f"{before} `{name}`" if name else ""
