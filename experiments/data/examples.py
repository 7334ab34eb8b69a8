# SPDX-License-Identifier: Apache-2.0
"""What an example, a batch and a data set are.

Images are NHWC, float32 once they are in a batch; labels are int32.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np


class Batch(NamedTuple):
    """Some examples: images `(b, h, w, c)`, labels `(b,)`, and which of them count.

    A mask of None: all do. Where it is False there is no example, only zeros.
    """

    image: np.ndarray | jax.Array
    label: np.ndarray | jax.Array
    mask: np.ndarray | jax.Array | None = None


class Source(Protocol):
    """Examples by index; a thread may ask for one while another does."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def load(
        self, index: int, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, int]:
        """Returns image `(h, w, c)` and label; with a generator, one to train on."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Examples in memory, bytes or float32 in [0, 1]."""

    image: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def load(
        self, index: int, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, int]:
        """Returns the image as float32, whether it is to train on or not."""
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
        """Returns what the other source does."""
        return self.source.load(index, rng)


def first(source: Source, num: int) -> Source:
    """Returns the first so many examples; in memory if the source is."""
    if isinstance(source, ArraySource):
        return ArraySource(source.image[:num], source.label[:num])
    return First(source, num)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test examples; in memory, unless they are many files."""

    train: Any  # Source; an ArraySource where it is in memory
    test: Any
    num_classes: int


def as_float(image: np.ndarray) -> np.ndarray:
    """Bytes become float32 in [0, 1]."""
    return image.astype(np.float32) / 255 if image.dtype == np.uint8 else image
