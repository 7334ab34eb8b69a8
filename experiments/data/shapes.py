# SPDX-License-Identifier: Apache-2.0
"""What the images of a config are, known without opening them."""

from pathlib import Path
from typing import NamedTuple

from experiments.config import DataConfig
from experiments.data import cifar, digits, idx, image_folder
from experiments.data.datasets import downsampled, load_dataset
from experiments.errors import UserError

KNOWN = {
    "digits": (digits.SHAPE, digits.NUM_CLASSES),
    **dict.fromkeys(idx.WHERE, (idx.SHAPE, idx.NUM_CLASSES)),
    **{
        name: (cifar.SHAPE, version.num_classes)
        for name, version in cifar.VERSIONS.items()
    },
}
"""Height, width and channels of the images, and the number of classes."""
IMAGENET = 1000
"""Classes, where neither files nor user tell their number."""


class Shapes(NamedTuple):
    """Height, width and channels of an image, and the number of classes."""

    image: tuple[int, int, int]
    num_classes: int
    notes: tuple[str, ...] = ()
    """What was assumed, in sentences."""


def shapes_of(config: DataConfig, num_classes: int | None = None) -> Shapes:
    """Returns the shapes; reads no image unless the reader is that of TFDS.

    Args:
        config: the data.
        num_classes: replaces what the reader's name or the files tell.

    Raises:
        UserError: the images have the size of files that cannot be read, or a size
            that `data.downsample` does not divide.
    """
    if config.name in KNOWN:
        image, found = KNOWN[config.name]
        image = downsampled(image, config.downsample)
        return Shapes(image, num_classes or found)
    if config.name == "tfds":
        try:
            dataset = load_dataset(config)
            image = dataset.train.load(0, None)[0].shape
            return Shapes(image, num_classes or dataset.num_classes)
        except UserError as error:
            if config.image_size is None:
                fix = "give data.image_size, and the images need not be there"
                raise UserError(f"{str(error).rstrip('.')}; {fix}.") from error
    size = config.image_size or 0
    image = (size, size, 3)
    if num_classes is not None:
        return Shapes(image, num_classes)
    folder = Path(config.path or "")
    train = folder / "train"
    of_images = config.name == "image_folder" and train.is_dir()
    if of_images and (num := image_folder.Listing(folder).num_classes(train)):
        return Shapes(image, num)
    note = (
        f"`{config.path}` does not tell the number of classes: {IMAGENET} are assumed; "
        "--num-classes changes it."
    )
    return Shapes(image, IMAGENET, (note,))
