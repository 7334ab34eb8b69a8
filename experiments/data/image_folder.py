# SPDX-License-Identifier: Apache-2.0
"""Folders of images, one for each class; an image is read when it is needed."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.data.examples import Dataset
from experiments.data.images import resized
from experiments.errors import UserError

SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm"}


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSource:
    """Images on disk, and the numbers of their classes."""

    paths: list[Path]
    label: np.ndarray
    size: int

    def __len__(self) -> int:
        return len(self.paths)

    def load(
        self, index: int, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, int]:
        """Returns a random crop for training or the middle for testing, resized."""
        path = self.paths[index]
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"`{path}` cannot be read as an image: {error}.") from error
        return resized(image, self.size, rng), int(self.label[index])


def load(folder: Path, size: int) -> Dataset:
    """Lists the images below `train` and `val` (or `test`)."""
    train = folder / "train"
    test = next((folder / n for n in ("val", "test") if (folder / n).is_dir()), None)
    if not train.is_dir() or test is None:
        raise UserError(
            "`data.path` must have the folders `train` and `val` (or `test`), each "
            f"with a folder of images for each class, but `{folder}` does not."
        )
    classes = sorted(path.name for path in train.iterdir() if path.is_dir())
    others = sorted(path.name for path in test.iterdir() if path.is_dir())
    if len(classes) < 2 or set(others) - set(classes):
        raise UserError(
            f"`{train}` must have folders of at least two classes, and all of those in "
            f"`{test}`, got {classes} and {others}."
        )
    return Dataset(
        _list(train, classes, size), _list(test, classes, size), len(classes)
    )


def _list(folder: Path, classes: list[str], size: int) -> FolderSource:
    paths: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        found = sorted((folder / name).rglob("*"))
        found = [path for path in found if path.suffix.lower() in SUFFIXES]
        paths += found
        labels += [number] * len(found)
    if not paths:
        kinds = ", ".join(sorted(SUFFIXES))
        raise UserError(f"`{folder}` must have images ({kinds}) in its folders.")
    return FolderSource(paths, np.asarray(labels, np.int32), size)
