# SPDX-License-Identifier: Apache-2.0
"""Folders of images, one for each class; an image is read when it is needed."""

import dataclasses
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.examples import Dataset, digest_of
from experiments.data.files import is_hidden
from experiments.data.images import dropped, open_image, open_regular, resized
from experiments.data.inspection import inspect
from experiments.errors import UserError

SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm"}
HIDDEN = "hidden files and folders"
LINKS = "links to folders, to files elsewhere, and broken links"
SPECIAL = "pipes, sockets and devices"
OUTSIDE = "files outside the folders of classes"
OTHERS = f"files whose names do not end in {', '.join(sorted(SUFFIXES))}"
EMPTY = "folders of classes without images"


class File(NamedTuple):
    """An image: its path below the folder of its part, and its size in bytes."""

    name: str
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSource:
    """Images on disk, and the numbers of their classes."""

    folder: Path
    names: list[str]  # relative to the folder
    sizes: list[int]  # in bytes
    label: np.ndarray
    size: int

    def __len__(self) -> int:
        return len(self.names)

    def load(
        self, index: int, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, int]:
        """Returns a random crop for training or the middle for testing, resized."""
        image = open_image(self.folder / self.names[index])
        return resized(image, self.size, rng), int(self.label[index])

    def name(self, index: int) -> str:
        """Returns what errors and notes call an example."""
        return f"`{self.folder / self.names[index]}`"

    def inspect(self, index: int) -> list[str]:
        """Returns the rules by which a part of the image is dropped; reads its header.

        Raises:
            UserError: it is no image that can be read.
        """
        with open_regular(self.folder / self.names[index]) as file:
            return dropped(file, self.name(index))

    def digest(self) -> str:
        """Returns a digest of names, sizes in bytes and labels, not of the pixels."""
        return digest_of(self.names, self.sizes, self.label)


def load(folder: Path, size: int) -> Dataset:
    """Lists the images below `train` and `val` (or `test`).

    A class is a folder in `train` with images in it or below. Left out, and named in
    the notes, are hidden entries, files that are no images by their names, links to
    folders, and links that lead out of the data. Up to `NUM_INSPECTED` images of each
    part are opened by their headers; of all images the size is looked at.

    Raises:
        UserError: there are not two classes, a class has test images only, or an image
            is empty or is refused by its header.
    """
    train = folder / "train"
    tests = [folder / name for name in ("val", "test") if (folder / name).is_dir()]
    if not train.is_dir() or not tests:
        raise UserError(
            "`data.path` must have the folders `train` and `val` (or `test`), each "
            f"with a folder of images for each class, but `{folder}` does not."
        )
    test, *unused = tests
    listing = Listing(folder)
    images, others = listing.classes(train), listing.classes(test)
    classes = [name for name, found in images.items() if found]
    tested = [name for name, found in others.items() if found]
    untrained = sorted(set(tested) - set(classes))
    problem = None
    if untrained:
        problem = (
            f"`{train / untrained[0]}` must have training images of the class "
            f"`{untrained[0]}`, since `{test / untrained[0]}` has images of it"
            f"{_other_spelling(untrained[0], classes)}."
        )
    elif len(classes) < 2:
        problem = (
            f"`{train}` must have folders of images of at least two classes, got "
            f"{', '.join(f'`{name}`' for name in classes) or 'none'}."
        )
    elif not tested:
        problem = f"`{test}` has no images in the folders of its classes."
    if problem:
        raise UserError(" ".join([problem, *listing.notes]))
    sources = (
        _source(train, images, classes, size),
        _source(test, others, classes, size),
    )
    notes = [
        f"`{folder}`: the folder `{path.name}` is left out: `{test.name}` has the test "
        "images."
        for path in unused
    ]
    if untested := [name for name in classes if name not in tested]:
        notes.append(
            f"`{test}`: classes without test images: {len(untested)}, the first "
            f"`{untested[0]}`."
        )
    return Dataset(
        *sources,
        len(classes),
        class_names=tuple(classes),
        notes=(*listing.notes, *notes, *inspect(*sources)),
    )


def _other_spelling(name: str, classes: list[str]) -> str:
    """Returns what to add about a class whose name looks like this one's."""

    def folded(text: str) -> str:
        return unicodedata.normalize("NFKC", text).casefold()

    for other in classes:
        if folded(other) == folded(name):
            return f"; `{other}` differs from it in case or in the encoding of letters"
    return ""


def _source(
    part: Path, images: dict[str, list[File]], classes: list[str], size: int
) -> FolderSource:
    """Returns the images of the classes.

    Raises:
        UserError: some have no bytes.
    """
    files = [file for name in classes for file in images.get(name, [])]
    if empty := [file.name for file in files if file.size == 0]:
        raise UserError(
            f"`{part}` must have no images of 0 bytes, got {len(empty)}, the first "
            f"`{part / empty[0]}`; was the download interrupted? Replace or remove "
            "them."
        )
    counts = [len(images.get(name, [])) for name in classes]
    label = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    names, sizes = [file.name for file in files], [file.size for file in files]
    return FolderSource(part, names, sizes, label, size)


class Listing:
    """Finds the images of a data set, and counts what it leaves out, by reason."""

    def __init__(self, folder: Path):
        """Starts with nothing left out."""
        self._folder = folder
        self._left_out: dict[str, list[str]] = {}

    def classes(self, part: Path) -> dict[str, list[File]]:
        """Returns the images of each class, all sorted.

        Raises:
            UserError: a folder cannot be listed.
        """
        places = (self._folder.resolve(), part.resolve())
        found: dict[str, list[File]] = {}
        above = len(str(part)) + 1
        for entry in self._entries(part, places):
            if entry.is_dir():
                found[entry.name] = sorted(
                    File(image.path[above:], image.stat().st_size)
                    for image in self._images(Path(entry.path), places)
                )
                if not found[entry.name]:
                    self._leave_out(EMPTY, entry)
            else:
                self._leave_out(OUTSIDE, entry)
        return found

    def num_classes(self, part: Path) -> int:
        """Returns the number of classes with images; sees no file after the first.

        Raises:
            UserError: a folder cannot be listed.
        """
        places = (self._folder.resolve(), part.resolve())
        return sum(
            entry.is_dir() and any(self._images(Path(entry.path), places))
            for entry in self._entries(part, places)
        )

    def below(self, folder: Path) -> list[Path]:
        """Returns the images in a folder and in those below, sorted.

        Raises:
            UserError: a folder cannot be listed.
        """
        images = self._images(folder, (folder.resolve(),))
        return sorted(Path(image.path) for image in images)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out and why, in sentences."""
        return tuple(
            f"`{self._folder}`: {reason} are left out: {len(paths)}, the first "
            f"`{os.path.relpath(paths[0], self._folder)}`."
            for reason, paths in self._left_out.items()
        )

    def _images(
        self, folder: Path, places: tuple[Path, ...]
    ) -> Iterator["os.DirEntry[str]"]:
        """Yields the images in a folder and those below."""
        folders = [folder]
        while folders:
            for entry in self._entries(folders.pop(), places):
                if entry.is_dir():
                    folders.append(Path(entry.path))
                elif not entry.is_file():
                    self._leave_out(SPECIAL, entry)
                elif Path(entry.name).suffix.lower() in SUFFIXES:
                    yield entry
                else:
                    self._leave_out(OTHERS, entry)

    def _entries(
        self, folder: Path, places: tuple[Path, ...]
    ) -> Iterator["os.DirEntry[str]"]:
        """Yields what is in a folder and visible; of links, those to files inside."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"`{folder}` cannot be listed: {error.strerror}."
            ) from error
        for entry in entries:
            if is_hidden(entry.name):
                self._leave_out(HIDDEN, entry)
            elif entry.is_symlink() and not _leads_to_file_in(entry, places):
                self._leave_out(LINKS, entry)
            else:
                yield entry

    def _leave_out(self, reason: str, entry: "os.DirEntry[str]") -> None:
        self._left_out.setdefault(reason, []).append(entry.path)


def _leads_to_file_in(link: "os.DirEntry[str]", places: tuple[Path, ...]) -> bool:
    """Returns whether a link leads to a regular file below one of the places."""
    target = Path(os.path.realpath(link.path))
    return target.is_file() and any(map(target.is_relative_to, places))
