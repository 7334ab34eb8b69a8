# SPDX-License-Identifier: Apache-2.0
"""What a change to the batch norms of a network did, and what Flax's norm can do."""

from collections.abc import Iterator
from typing import NamedTuple

from jaxbn._flax.layer import Fields


class SurgeryReport(NamedTuple):
    """Which batch norms of a network were changed.

    Attributes:
        changed: the paths of the layers that were changed; `.` is a model that is one.
        kept: the paths of the layers that needed no change.
    """

    changed: tuple[str, ...]
    kept: tuple[str, ...]


def training_only(norm: Fields) -> Iterator[str]:
    """The settings of training, as code, for which Flax's norm has no counterpart."""
    if norm.momentum is None:
        yield "momentum=None"
    if norm.virtual_batch_size is not None:
        yield f"virtual_batch_size={norm.virtual_batch_size}"
    if norm.unbiased:
        yield "unbiased=True"
    if norm.debias:
        yield "debias=True"


def always(norm: Fields) -> Iterator[str]:
    """Those that inference has too."""
    if norm.activation is not None:
        yield "activation"
    if norm.num_segments is not None:
        yield f"num_segments={norm.num_segments}"
    if norm.frozen:
        yield "frozen=True"
