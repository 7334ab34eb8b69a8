# SPDX-License-Identifier: Apache-2.0
"""What a study compares: experiments that differ in some fields, with names."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.config.claims import Settings
from experiments.config.experiment import ExperimentConfig

Changes = Mapping[str, Any]
"""New values by dotted field, such as `{"norm.kind": "none"}`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """An experiment, and the settings that tell it from the others of its study."""

    settings: Settings
    experiment: ExperimentConfig


def changed(experiment: ExperimentConfig, changes: Changes) -> ExperimentConfig:
    """Returns the experiment with these fields changed."""
    parts: dict[str, dict[str, Any]] = {}
    for field, value in changes.items():
        part, _, name = field.partition(".")
        parts.setdefault(part, {})[name] = value
    return dataclasses.replace(
        experiment,
        **{
            part: dataclasses.replace(getattr(experiment, part), **fields)
            for part, fields in parts.items()
        },
    )


def values(field: str, options: Iterable[Any]) -> dict[Any, Changes]:
    """Returns an axis of a grid: one field, and its values."""
    return {option: {field: option} for option in options}


def grid(
    experiment: ExperimentConfig, axes: Mapping[str, Mapping[Any, Changes]]
) -> tuple[Variant, ...]:
    """Returns a variant for each combination of one option of every axis.

    Args:
        experiment: what they have in common.
        axes: by the name of the setting, its options, and what each changes; a later
            axis has the last word.
    """
    variants = []
    for chosen in itertools.product(*(options.items() for options in axes.values())):
        changes = {k: v for _, change in chosen for k, v in change.items()}
        settings = tuple(zip(axes, (option for option, _ in chosen), strict=True))
        variants.append(
            Variant(settings=settings, experiment=changed(experiment, changes))
        )
    return tuple(variants)
