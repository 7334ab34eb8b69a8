# SPDX-License-Identifier: Apache-2.0
"""Checks of what is folded, and of the params of a folded function."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
from jax.core import Tracer


def check_leaves(leaves: Mapping[str, Any]) -> None:
    """`params` must hold arrays, whose values are known."""
    for path, leaf in leaves.items():
        if isinstance(leaf, Tracer):
            raise TypeError(
                f"`params` must have values to compute with, got a traced array at "
                f"`{path}`; call `fold` outside of `jax.jit` and other transformations."
            )
        if not hasattr(leaf, "__array__") or isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(
                f"`params` must hold arrays, got {type(leaf).__name__} at `{path}`; "
                "close over what is no array, as `eqx.partition` and `nnx.split` do."
            )


def check_paths(paths: Sequence[str]) -> None:
    """Each leaf must have a path of its own."""
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise ValueError(
            "`params` must have a path for each leaf, got several leaves at "
            f"{', '.join(f'`{path}`' for path in twice)}; rename the key with a slash."
        )


def check_inference(training: tuple[str, str] | None) -> None:
    """No norm may use statistics of the batch, which are no constants."""
    if training is not None:
        scope, operation = training
        raise ValueError(
            "`function` must be in inference mode, got a scale by statistics of the "
            f"batch in `{scope or operation}`; give the norm "
            "`use_running_average=True`, or call `model.eval()`."
        )


def check_has_norms(norms: Collection[Any]) -> None:
    """There must be something to fold."""
    if not norms:
        raise ValueError(
            "`function` must have a norm, which scales a value by what depends on "
            "`params` alone, got none; give all parameters and statistics in `params`, "
            "not by a closure."
        )


def check_same_params(params: Any, expected: Mapping[str, Any]) -> None:
    """The params of a folded function have names, shapes and dtypes."""
    if not isinstance(params, Mapping):
        raise TypeError(
            "`params` must be a dict of arrays by path, as `Folded.params`, got "
            f"{type(params).__name__}."
        )
    missing, unknown = sorted({*expected} - {*params}), sorted({*params} - {*expected})
    if missing or unknown:
        raise ValueError(
            "`params` must have the names of `Folded.params`; it lacks "
            f"{missing or 'nothing'}, and also has {unknown or 'nothing'}."
        )
    for name, like in expected.items():
        given = params[name]
        if (given.shape, given.dtype) != (like.shape, like.dtype):
            raise ValueError(
                f"`params` must have the shapes and dtypes of `Folded.params`, got "
                f"{given.dtype}{list(given.shape)} at `{name}`, which has "
                f"{like.dtype}{list(like.shape)}; fold the other network itself."
            )


def check_same_operations(given: object, expected: object, inputs: object) -> None:
    """Inputs of other shapes must not make the function compute something else."""
    if given != expected:
        raise ValueError(
            "`inputs` must lead to the operations that were folded, got others for "
            f"{inputs}; fold the function again with such inputs."
        )
