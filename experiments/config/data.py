# SPDX-License-Identifier: Apache-2.0
"""The examples."""

import dataclasses
from typing import Literal

from experiments.config.ranges import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The examples."""

    name: Literal[
        "digits",
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "image_folder",
        "tfds",
    ] = "digits"
    """digits: scikit-learn's, 8x8, shipped with it; mnist, fashion_mnist: idx files;
    cifar10, cifar100: the binary or the Python version; image_folder: train/ and val/
    (or test/), each with a folder of images for each class; tfds: ArrayRecord files
    prepared by TensorFlow Datasets (`file_format="array_record"`), the folder of one
    version; needs the extra `tfds`, not TensorFlow."""
    path: str | None = None
    """The folder that the files are in; not for digits."""
    batch_size: int = 64
    """Examples a step, of all devices and processes together, at least 1."""
    num_train: int | None = None
    """Train on the first so many examples, at least 1; None: on all."""
    num_empty: int = 0
    """Rows at the end of each training batch that are left empty, as padding, at least
    0 and fewer than batch_size."""
    image_size: int | None = None
    """Height and width, at least 8: for image_folder, and for tfds where the images
    differ in size. In training a random crop is resized to it, in evaluation the middle
    of the image."""
    crop_padding: int = 0
    """Augmentation: each training image is padded by so many pixels and cropped at a
    random place, at least 0."""
    flip: bool = False
    """Augmentation: every second training image, at random, is mirrored."""
    num_threads: int = 2
    """Of each process, that read and decode ahead of the step, at least 1."""

    def __post_init__(self):
        """Checks the ranges."""
        require(self.batch_size >= 1, "data.batch_size", ">= 1", self.batch_size)
        num = self.num_train
        require(num is None or num >= 1, "data.num_train", ">= 1", num)
        empty, size = self.num_empty, self.batch_size
        rule = f"in [0, data.batch_size), which is {size}"
        require(0 <= empty < size, "data.num_empty", rule, empty)
        require(self.crop_padding >= 0, "data.crop_padding", ">= 0", self.crop_padding)
        require(self.num_threads >= 1, "data.num_threads", ">= 1", self.num_threads)
        wants_path = self.name != "digits"
        given = self.path is not None
        rule = f"{'given' if wants_path else 'left out'} for {self.name}"
        require(given == wants_path, "data.path", rule, self.path)
        size = self.image_size
        if self.name == "image_folder":
            rule, fits = "at least 8 for image_folder", size is not None and size >= 8
        elif self.name == "tfds":
            rule, fits = ">= 8", size is None or size >= 8
        else:
            rule, fits = "left out but for image_folder and tfds", size is None
        require(fits, "data.image_size", rule, size)
