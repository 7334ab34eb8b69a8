# SPDX-License-Identifier: Apache-2.0
"""Checks of the estimation of population statistics."""

import contextlib
import math
import warnings
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from typing import Any

from jaxbn._checks.kinds import is_number


def check_batches(batches: Iterable[Any], *, again: bool) -> None:
    """`batches` must be iterable, and for several passes more than once."""
    try:
        same = iter(batches) is batches
    except TypeError:
        raise TypeError(
            f"`batches` must be an iterable of batches, got {type(batches).__name__}."
        ) from None
    if again and same:
        raise ValueError(
            "`batches` must be iterable more than once with `layerwise=True`, got "
            f"{type(batches).__name__}, which ends after one pass; give a list, or a "
            "class whose `__iter__` starts again."
        )


def check_num_batches(num_batches: int) -> None:
    """There must be something to estimate from."""
    if num_batches == 0:
        raise ValueError(
            "`batches` must hold at least one batch, got none; an iterator that was "
            "used before is empty."
        )


def check_layers(layers: Collection[Any], *, name: str, to: str) -> None:
    """The model must have batch norms."""
    if not layers:
        raise ValueError(
            f"`{name}` must have at least one batch norm, a place with `mean` and "
            f"`var` of one shape, got none: there is nothing to {to}."
        )


@contextlib.contextmanager
def model_errors(kind: type[Exception]) -> Generator[None]:
    """Names the cause where variables do not fit the model."""
    try:
        yield
    except kind as error:
        raise ValueError(
            "`variables` and the batches must fit the model of `apply`, which raised "
            f"{type(error).__name__}: {error}"
        ) from error


def check_updates(result: Any) -> Mapping[str, Any]:
    """Returns the statistics in what `apply` returned."""
    pair: tuple[Any, ...] = result if isinstance(result, tuple) else ()
    updates: Mapping[str, Any] | None = None
    if len(pair) == 2 and isinstance(pair[1], Mapping):
        updates = pair[1]
    if updates is None or "batch_stats" not in updates:
        kind = "a tuple without them" if isinstance(result, tuple) else "no tuple"
        raise TypeError(
            "`apply` must return the output and the updates, as `model.apply(..., "
            f'mutable=["batch_stats"])` does, got {kind}.'
        )
    return updates["batch_stats"]


def check_paths_differ(paths: Sequence[str]) -> None:
    """Reports name a layer by its path, in which a name may hold a `/` of its own."""
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(
                "`variables` must have layers of different paths, got several at "
                f"`{path}`, of which one has a name with a `/`; rename it."
            )


def check_names(
    updated: Collection[tuple[str, ...]], given: Collection[tuple[str, ...]]
) -> None:
    """The model must have no statistics that it was not given."""
    unknown = sorted("/".join(path) for path in set(updated) - set(given))
    if unknown:
        raise ValueError(
            f"`variables` must have all statistics of the model, but `batch_stats` "
            f"lacks {', '.join(f'`{name}`' for name in unknown)}; do they belong to "
            "another model?"
        )


def check_anything_recorded(recorded: Collection[str], layers: Collection[str]) -> None:
    """At least one layer must have run as in training."""
    if not recorded:
        raise ValueError(
            "the model must be run as in training (`use_running_average=False`, or "
            "`update_stats=True`): none of its batch norms, "
            f"{', '.join(f'`{path}`' for path in layers)}, had anything to add to its "
            "statistics."
        )


def check_foreign(foreign: Collection[str], own: Collection[str], module: str) -> None:
    """Of Flax's own norms nothing is estimated: an error if there are no others."""
    if not foreign:
        return
    paths = ", ".join(f"`{path}`" for path in sorted(foreign))
    text = (
        f"{paths}: Flax's own batch norm, which has no part in the estimate; import "
        f"`BatchNorm` from `{module}`, which has the same variables."
    )
    if not own:
        raise ValueError(f"the model must have batch norms of `{module}`, got {text}")
    warnings.warn(text, stacklevel=2)


def warn_out_of_reach(modules: Mapping[str, str], *, part: str) -> None:
    """Of norms in a Linen module nothing is known; `modules` are classes by path."""
    for path, kind in modules.items():
        warnings.warn(
            f"`{path}`: the batch norms in `{kind}` are out of reach, and have no part "
            f"in the {part}; write that model in `flax.nnx`.",
            stacklevel=3,
        )


def check_prior(prior_count: object) -> None:
    """It must be a finite number of examples, at least 0."""
    if not is_number(prior_count):
        raise TypeError(f"`prior_count` must be a number, got {prior_count!r}.")
    if not 0 <= prior_count < math.inf:
        raise ValueError(
            f"`prior_count` must be finite and at least 0, got {prior_count}; 0 uses "
            "the batches alone."
        )
