# SPDX-License-Identifier: Apache-2.0
"""A look at examples on disk before training, so that it does not fail in its middle.

All of them would take too long: what is seen of some, evenly spread, is checked for the
others when they are read.
"""

import math
from collections.abc import Sized
from typing import Protocol

NUM_INSPECTED = 1000


class Inspectable(Sized, Protocol):
    """Examples on disk."""

    def name(self, index: int) -> str:
        """Returns what errors and notes call an example."""
        ...

    def inspect(self, index: int) -> list[str]:
        """Returns the rules by which a part of the example is dropped.

        Raises:
            UserError: it cannot be trained on.
        """
        ...


def spread(source: Sized) -> range:
    """Returns the indices of up to `NUM_INSPECTED` examples, evenly spread."""
    return range(0, len(source), max(1, math.ceil(len(source) / NUM_INSPECTED)))


def inspect(*sources: Inspectable) -> list[str]:
    """Inspects some examples of each source; returns a note for each rule that applies.

    Raises:
        UserError: one of them cannot be trained on.
    """
    found: dict[str, list[str]] = {}
    for source in sources:
        for index in spread(source):
            for rule in source.inspect(index):
                found.setdefault(rule, []).append(source.name(index))
    num = sum(len(spread(source)) for source in sources)
    return [
        f"{rule}: {len(names)} of the {num} images inspected, the first {names[0]}."
        for rule, names in found.items()
    ]
