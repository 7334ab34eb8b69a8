# SPDX-License-Identifier: Apache-2.0
"""What makes a run the run that it is: its config, and which fields may change.

A run that is resumed keeps its config, but for the fields that change no number of it.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from experiments.config.experiment import ExperimentConfig

FREE = frozenset(
    {
        "data.path",  # the examples themselves are compared
        "data.num_threads",
        "train.log_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.tensorboard",
    }
)
"""The fields that may change when a run is resumed."""
LENGTHS = ("train.num_steps", "train.num_epochs")
"""The fields that may grow, also after the last step."""
Fields = Mapping[str, Any]
"""Values by dotted names, such as `{"norm.momentum": 0.9}`, as JSON has them."""


class Changes(NamedTuple):
    """The differences between the config that a run has and another one."""

    allowed: list[str]
    refused: list[str]


def fields_of(config: ExperimentConfig) -> dict[str, Any]:
    """Returns all fields but those of `processes`, which do not change what a run is.

    Example:
        >>> from experiments.config import ExperimentConfig
        >>> fields_of(ExperimentConfig(name="a"))["norm.momentum"]
        0.9
    """
    fields = dataclasses.asdict(config)
    del fields["processes"]
    if config.train.num_epochs is None:
        fields["train"]["num_steps"] = config.train.total_steps
    return dict(flattened(json.loads(json.dumps(fields))))


def flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the fields of a nested config with their dotted names."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def changes(held: Fields, config: ExperimentConfig) -> Changes:
    """Compares the fields that a run holds with a config.

    A field that the run lacks, since it was made before the field was, has its default.
    A run may become longer, unless its learning rate follows from its length.
    """
    now, default = fields_of(config), fields_of(ExperimentConfig(name=config.name))
    held = default | dict(held)
    if held["train.num_epochs"] is held["train.num_steps"] is None:
        held["train.num_steps"] = default["train.num_steps"]
    old: Any
    new: Any
    found = Changes([], [])
    for name in {**now, **held}:
        old, new = held.get(name), now.get(name)
        if old == new:
            continue
        text = f"{name} is {old!r} there, {new!r} now"
        if name in FREE:
            found.allowed.append(text)
        elif name not in LENGTHS or not _are_numbers(old, new):
            found.refused.append(text)
        elif new < old:
            found.refused.append(f"{text}, and it can only grow")
        elif config.optimizer.schedule == "cosine":
            found.refused.append(f"{text}, and the cosine schedule depends on it")
        else:
            found.allowed.append(text)
    return found
