# SPDX-License-Identifier: Apache-2.0
"""`predict`: the classes that a run sees in images of any kind."""

import base64
import dataclasses
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tyro
from rich.console import Console

from experiments.cli.command import Command
from experiments.cli.evaluate import Checkpoint
from experiments.errors import UserError, printable
from experiments.run.folder import PREDICTIONS, make_place
from experiments.run.progress import ProgressBar
from experiments.run.report import Table, print_notes, print_table, write_page

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from experiments.train.saved import SavedRun

BATCH = 64
SIDE = 160  # pixels of a picture on the page, at most
PICTURES = 1000  # images on the page; a browser has trouble with many more
LINES = 10  # of progress where there is no terminal


class Guess(NamedTuple):
    """A class and its probability, as text."""

    name: str
    probability: str


class Prediction(NamedTuple):
    """What a run makes of an image, and two pictures of it as `data:` addresses."""

    file: str
    guesses: list[Guess]  # the most probable first
    picture: str
    seen: str  # what the network was given


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict(Command):
    """Names the class of images, in a table and on a page with the pictures.

    An image of any size and format is prepared as the evaluation of the run does: for
    runs on image_folder (and tfds with data.image_size) 7/8 of its middle are resized;
    for the other data sets its middle, in the proportions of their images, is resized
    to their size. It becomes grey where the network takes one channel, and is not
    inverted: digits and mnist are light strokes on a dark ground, and so must be the
    images. Their data and the devices of the training are not needed.

    An image that cannot be read is named, and the others are predicted; the exit status
    is then 2.
    """

    usage = "RUN IMAGES... [--checkpoint best|latest|STEP] [--top K] [--output PAGE]"
    folder: tyro.conf.Positional[Path]
    """The folder of the run."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Files, and folders of which all images are taken."""
    checkpoint: Checkpoint = "best"
    """best: by test accuracy; latest; or the step of a checkpoint that is kept."""
    top: int = 2
    """How many classes are listed for an image, the most probable first."""
    output: Path | None = None
    """The page, one file without links to others; RUN/predictions.html unless given."""

    def run(self, console: Console, command: str) -> int:
        """Predicts, prints the table, and writes the page.

        Returns:
            The exit status: 2 if an image cannot be read, else 0.
        """
        from experiments.train import saved

        if not self.images:
            raise UserError("`predict` takes at least one image or folder of images.")
        if self.top < 1:
            raise UserError(f"`top` must be >= 1, got {self.top}.")
        run = saved.load(self.folder, self.checkpoint)
        files, notes = list_images(self.images)
        print_notes(console, notes)
        path = self.output or self.folder / PREDICTIONS
        make_place(path)
        found, unread = self._predict(console, run, files)
        if found:
            table = _table(found)
            print_table(console, table)
            write_page(
                path,
                PREDICTIONS,
                title=f"Predictions of {run.config.name}",
                summary=f"{len(found)} images, by step {run.step} of {self.folder}, "
                f"whose test accuracy is {run.accuracy:.2%}.",
                table=table,
                predictions=found[:PICTURES],
                num_left_out=max(0, len(found) - PICTURES),
                command=command,
            )
            console.print(f"Page: {path}", soft_wrap=True, markup=False)
        for error in unread:
            print(f"error: {error}", file=sys.stderr)
        return 2 if unread else 0

    def _predict(
        self, console: Console, run: "SavedRun", files: list[Path]
    ) -> tuple[list[Prediction], list[str]]:
        """Returns the predictions, and what is wrong with the other files."""
        import numpy as np

        from experiments.data.images import open_image, prepared
        from experiments.train.prediction import probabilities

        found: list[Prediction] = []
        unread: list[str] = []
        size, line_every = min(BATCH, len(files)), max(1, len(files) // LINES)
        with ProgressBar(console, len(files), "Predicting") as bar:
            for start in range(0, len(files), size):
                read: list[tuple[Path, str, np.ndarray]] = []
                for path in files[start : start + size]:
                    try:
                        image = open_image(path)
                    except (UserError, OSError) as error:
                        unread.append(printable(str(error)))
                        continue
                    pixels = prepared(image, run.config.data, run.image_shape)
                    picture = _picture(image) if start < PICTURES else ""
                    read.append((path, picture, pixels))
                if read:
                    pixels = np.stack([pixels for *_, pixels in read])
                    chances = probabilities(run, pixels, size)
                    for (path, picture, seen), row in zip(read, chances, strict=True):
                        guesses = list(self._guesses(run, row))
                        pictures = (picture, _seen(seen) if picture else "")
                        name = printable(str(path))
                        found.append(Prediction(name, guesses, *pictures))
                done = start + len(files[start : start + size])
                bar.update(completed=done)
                if len(files) > BATCH and done // line_every > start // line_every:
                    bar.line(f"{done} of {len(files)} images")
        return found, unread

    def _guesses(self, run: "SavedRun", chances: Any) -> Iterator[Guess]:
        """Yields the most probable classes."""
        order = (-chances).argsort(kind="stable")[: self.top]
        for label in order:
            yield Guess(run.class_names[label], f"{chances[label]:.2%}")


def list_images(places: tuple[Path, ...]) -> tuple[list[Path], list[str]]:
    """Returns the files, each once, those in the folders, and what is left out there.

    Raises:
        UserError: a place does not exist, or is a folder without images.
    """
    from experiments.data.image_folder import SUFFIXES, Listing

    files: dict[Path, Path] = {}
    notes: list[str] = []
    for place in places:
        if place.is_dir():
            listing = Listing(place)
            below = listing.below(place)
            notes += listing.notes
            if not below:
                kinds = ", ".join(sorted(SUFFIXES))
                raise UserError(f"`{place}` must have images ({kinds}), but has none.")
        elif place.exists():
            below = [place]
        else:
            raise UserError(f"`{place}` is no image: it does not exist.")
        for path in below:
            files.setdefault(path.resolve(), path)
    return list(files.values()), notes


def _table(found: list[Prediction]) -> Table:
    rows = []
    for prediction in found:
        (first, *others) = prediction.guesses
        then = ", ".join(f"{name} ({chance})" for name, chance in others) or "-"
        rows.append([prediction.file, *first, then])
    return Table(
        ["file", "prediction", "probability", "then"],
        rows,
        "The probability is the network's own, and is often too high.",
    )


def _seen(pixels: "np.ndarray") -> str:
    """Returns the picture of what a network is given."""
    from PIL.Image import fromarray

    scaled = (pixels * 255).round().astype("uint8")
    return _picture(fromarray(scaled[..., 0] if scaled.shape[-1] == 1 else scaled))


def _picture(image: "Image") -> str:
    """Shrinks the image to at most `SIDE` pixels; returns it as the address of a PNG.

    Of a small image, each pixel becomes a square.
    """
    from PIL.Image import Resampling

    image.thumbnail((SIDE, SIDE))
    larger = SIDE // max(image.size)
    width, height = image.size
    image = image.resize((larger * width, larger * height), Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
