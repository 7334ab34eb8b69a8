# SPDX-License-Identifier: Apache-2.0
"""What an example, a batch and a data set are.

Images are NHWC, float32 once they are in a batch; labels are int32.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
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

    def digest(self) -> str:
        """Returns what tells these examples from others, in hexadecimal digits."""
        ...


def digest_of(*parts: object) -> str:
    """Returns 16 hexadecimal digits that differ when any part does.

    An array counts with its shape, its dtype and all its bytes, anything else with its
    `repr`.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(repr((part.shape, part.dtype.str)).encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


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

    def digest(self) -> str:
        """Returns a digest of all images and labels."""
        return digest_of(self.image, self.label)


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """Some examples of another source."""

    source: Source
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def load(
        self, index: int, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, int]:
        """Returns an example of the other source."""
        return self.source.load(self.rows[index], rng)

    def digest(self) -> str:
        """Returns a digest of the other source and the rows."""
        return digest_of(self.source.digest(), np.asarray(self.rows, np.int64))


def first(source: Source, num: int) -> Source:
    """Returns the first `num` examples; in memory if the source is."""
    if isinstance(source, ArraySource):
        return ArraySource(source.image[:num], source.label[:num])
    return Chosen(source, range(num))


def chosen(source: Source, num: int, seed: int) -> Source:
    """Returns `num` examples chosen at random; in memory if the source is."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(source), num, replace=False))
    if isinstance(source, ArraySource):
        return ArraySource(source.image[rows], source.label[rows])
    return Chosen(source, rows.tolist())


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test examples; in memory, unless each is a file of its own."""

    train: Any  # a Source; an ArraySource if it is in memory
    test: Any
    num_classes: int
    class_names: tuple[str, ...] = ()
    """One for each class; `load_dataset` names those without a name by their number."""
    notes: tuple[str, ...] = ()
    """What the reader left out and why, in sentences."""

    def digest(self) -> str:
        """Returns what tells this data set from others, in hexadecimal digits."""
        return digest_of(self.train.digest(), self.test.digest(), self.num_classes)
