# SPDX-License-Identifier: Apache-2.0
"""What an example, a batch and a data set are.

Images are NHWC, float32 once they are in a batch; labels are int32.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from experiments.data.images import as_float


class Batch(NamedTuple):
    """Images `(b, h, w, c)`, labels `(b,)`, and a mask of the examples that count.

    A mask of None: all count. A row whose mask is False holds no example, only zeros.
    """

    image: np.ndarray | jax.Array
    label: np.ndarray | jax.Array
    mask: np.ndarray | jax.Array | None = None


class Source(Protocol):
    """Examples by index; several threads may load at once."""

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def load(
        self, index: int, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, int]:
        """Returns image `(h, w, c)` and label, with `rng` those to train on."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Examples in memory, images as bytes or float32 in [0, 1]."""

    image: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def load(
        self, index: int, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, int]:
        """Returns the image as float32, and the label."""
        return as_float(self.image[index]), int(self.label[index])


@dataclasses.dataclass(frozen=True, eq=False)
class First:
    """The first examples of another source."""

    source: Source
    num: int

    def __len__(self) -> int:
        return self.num

    def load(
        self, index: int, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, int]:
        """Returns an example of the other source."""
        return self.source.load(index, rng)


def first(source: Source, num: int) -> Source:
    """Returns the first `num` examples; in memory if the source is."""
    if isinstance(source, ArraySource):
        return ArraySource(source.image[:num], source.label[:num])
    return First(source, num)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test examples; in memory, unless each is a file of its own."""

    train: Any  # a Source; an ArraySource if it is in memory
    test: Any
    num_classes: int
