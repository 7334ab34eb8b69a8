# SPDX-License-Identifier: Apache-2.0
"""What happens to an image on its way to a batch: read, scaled, resized, augmented."""

import contextlib
import math
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from experiments.config import DataConfig
from experiments.errors import UserError, first_line

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
"""Pillow's other decoders are never asked: that of EPS starts Ghostscript."""
FIRST_OF_SEVERAL = (
    "Of several images in a file, such as an animation, the first is read"
)
NO_ALPHA = "Alpha is dropped, and the colors behind it stay"
NO_COLOR = "Images in color or with a palette become grey"
EIGHT_BITS = "16 bits per channel become 8"
MAX_PIXELS = 2**27
"""Of an image: 400 MB once it is decoded."""
Image.MAX_IMAGE_PIXELS = None  # `decoded` refuses; Pillow's own check may only warn
warnings.filterwarnings("ignore", module="PIL")  # one for each damaged EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by the orientation of its EXIF data."""

AREA = (0.08, 1.0)  # of a random crop, as a fraction of the image
RATIO = (3 / 4, 4 / 3)  # of its width to its height
MIDDLE = 0.875  # of the shorter side, in evaluation
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by the number of channels

Box = tuple[float, float, float, float]


def open_image(path: Path) -> Image.Image:
    """Returns the image of a file, upright, in RGB.

    Raises:
        UserError: it is no regular file, or no image that `decoded` accepts.
    """
    with open_regular(path) as file:
        return decoded(file, f"`{path}`")


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Opens a regular file: a pipe would wait for a writer, a device may have no end.

    Raises:
        UserError: it is none, or cannot be read, also later, while it is open.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"`{path}` must be a regular file.")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"`{path}` cannot be read: {error.strerror}.") from error


def decoded(file: IO[bytes], name: str, mode: str = "RGB") -> Image.Image:
    """Returns the image in a file, in this mode, with 8 bits per channel.

    It stands upright where its EXIF data tell how the camera was held; damaged EXIF
    data are ignored. Of several images, such as an animation, it is the first. Unless
    the mode has an alpha channel, alpha is dropped, and the colors behind it stay. A
    16-bit grey value v becomes v / 257, rounded; of 16-bit colors Pillow reads the
    upper 8 bits. For mode L, colors become grey (ITU-R 601-2). CMYK becomes RGB by
    Pillow's formula, without a color profile.

    Raises:
        UserError: it is of no format of `FORMATS`, has more pixels than `MAX_PIXELS`,
            more than 16 bits per channel, or is damaged; the error starts with `name`.
    """
    with _opened(file, name) as image:
        image.load()
        return _in_bytes(_upright(image)).convert(mode)


def dropped(file: IO[bytes], name: str, mode: str = "RGB") -> list[str]:
    """Returns the rules by which `decoded` drops a part of what the header tells of.

    Raises:
        UserError: what `decoded` raises, but for damage after the header.
    """
    with _opened(file, name) as image:
        kind, largest = _stored(image)
        applies = {
            FIRST_OF_SEVERAL: getattr(image, "is_animated", False),
            NO_ALPHA: image.has_transparency_data and mode != "RGBA",
            NO_COLOR: mode == "L" and not kind.startswith(("1", "L", "I")),
            EIGHT_BITS: largest > 255,
        }
        return [rule for rule, holds in applies.items() if holds]


def _stored(image: ImageFile.ImageFile) -> tuple[str, int]:
    """Returns Pillow's name of the values in the file, and the largest of them.

    The mode does not tell, since Pillow opens 16-bit colors in RGB.
    """
    if not image.tile:  # as in WebP
        return image.mode, 255
    given = image.tile[0][3]  # to the decoder
    if isinstance(given, tuple):
        return given[0], given[1] if image.format == "PPM" else 255
    return str(given), 65535 if str(given).endswith(";16B") else 255


@contextlib.contextmanager
def _opened(file: IO[bytes], name: str) -> Iterator[ImageFile.ImageFile]:
    """Opens an image by its header; errors, also later ones, start with `name`."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{name} must have at most {MAX_PIXELS} pixels, got {image.width} "
                    f"x {image.height}."
                )
            if image.mode == "F":
                raise UserError(
                    f"{name} must have 8 or 16 bits per channel, got Pillow's mode F, "
                    "of 32 bits; save it with 8."
                )
            yield image
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UserError(
            f"{name} must be an image of the formats {', '.join(FORMATS)}."
        ) from error
    except Exception as error:  # decoders of damaged files can raise anything
        raise UserError(
            f"{name} cannot be read as an image: {first_line(error)}."
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """Returns the image as the camera was held, if its EXIF data tell.

    `ImageOps.exif_transpose` fails where any of these data are damaged.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data can raise anything
        return image
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _in_bytes(image: Image.Image) -> Image.Image:
    """Returns an image that Pillow converts to RGB without loss or warning."""
    if image.mode.startswith("I"):  # 16 bits in all `FORMATS`; Pillow clips to 255
        grey = np.rint(np.asarray(image).astype(np.float32) / 257)
        return Image.fromarray(grey.astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns otherwise
        return image.convert("RGBA")
    return image


def as_float(image: np.ndarray) -> np.ndarray:
    """Returns float32 in [0, 1], from bytes or what is float32 already."""
    return image.astype(np.float32) / 255 if image.dtype == np.uint8 else image


def resized(
    image: Image.Image, size: int, rng: np.random.Generator | None
) -> np.ndarray:
    """Returns a square of `size` pixels: a random crop with `rng`, else the middle."""
    box = _middle(image.size) if rng is None else _random_box(image.size, rng)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return as_float(np.atleast_3d(np.asarray(image)))


def prepared(
    image: Image.Image, config: DataConfig, shape: tuple[int, int, int]
) -> np.ndarray:
    """Returns an image of any size as the evaluation of a run on this data has it.

    Args:
        image: of any size and mode.
        config: the data of the run.
        shape: height, width and channels of the run's images. Where the data set has
            this size itself, the middle in these proportions is resized to it.
    """
    height, width, channels = shape
    image = image.convert(MODES[channels])
    if config.image_size is not None:
        return resized(image, config.image_size, None)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return as_float(np.asarray(image).reshape(shape))


def _middle(size: tuple[int, int]) -> Box:
    width, height = size
    side = MIDDLE * min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random_box(size: tuple[int, int], rng: np.random.Generator) -> Box:
    """Returns a box of random area and shape (Szegedy et al. 2015, section 6)."""
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(AREA[0], AREA[1])
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    return _middle(size)


def augment(
    image: np.ndarray, config: DataConfig, rng: np.random.Generator
) -> np.ndarray:
    """Pads and crops at a random place, and mirrors every second image."""
    if config.crop_padding:
        pad = config.crop_padding
        top, left = rng.integers(0, 2 * pad + 1, 2)
        height, width, _ = image.shape
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        image = padded[top : top + height, left : left + width]
    if config.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    return image
