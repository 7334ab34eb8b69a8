# SPDX-License-Identifier: Apache-2.0
"""Folders of TensorFlow Datasets in ArrayRecord files, read without TensorFlow."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.data.examples import Dataset
from experiments.data.images import as_float, resized
from experiments.errors import UserError

INFO, FEATURES = "dataset_info.json", "features.json"
TESTS = ("test", "validation", "val")
MADE_BY = (
    "TensorFlow Datasets writes such a folder: "
    '`tfds.builder(NAME, file_format="array_record").download_and_prepare()`'
)


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
    """Examples in ArrayRecord files, by index."""

    records: Sequence[Any]
    folder: Path
    split: str
    size: int | None

    def __len__(self) -> int:
        return len(self.records)

    def load(
        self, index: int, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, int]:
        """Returns the image, or a part of it resized if sizes differ, and the label."""
        try:
            example = self.records[index]
        except Exception as error:  # its decoders can raise anything
            raise UserError(
                f"`{self.folder}`: example {index} of `{self.split}` cannot be read: "
                f"{error}."
            ) from error
        image, label = example["image"], int(example["label"])
        if self.size is None:
            return as_float(image), label
        plain = image[..., 0] if image.shape[-1] == 1 else image
        return resized(Image.fromarray(plain), self.size, rng), label


def load(folder: Path, size: int | None) -> Dataset:
    """Opens the splits `train` and `test` (or `validation`), and checks every file."""
    builder = _builder(folder)
    splits = builder.info.splits
    test = next((name for name in TESTS if name in splits), None)
    if "train" not in splits or test is None:
        raise UserError(
            f"`{folder}` must have the splits `train` and one of {', '.join(TESTS)}, "
            f"got {', '.join(splits) or 'none'}."
        )
    num_classes = _check_features(builder.info.features, folder, size)
    parts = {}
    for split in ("train", test):
        for path, count in zip(
            splits[split].filepaths, splits[split].shard_lengths, strict=True
        ):
            _check_shard(Path(path), count)
        records = builder.as_data_source(split)
        parts[split] = TfdsSource(records, folder, split, size)
    return Dataset(parts["train"], parts[test], num_classes)


def _builder(folder: Path) -> Any:
    """Returns the reader that TensorFlow Datasets has for the folder."""
    for name in (INFO, FEATURES):
        if not (folder / name).is_file():
            raise UserError(
                f"`data.path` must have the file `{name}`, but `{folder}` does not; "
                f"give the folder of a version, such as `cifar10/3.0.2`. {MADE_BY}."
            )
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            "`data.name` tfds needs TensorFlow Datasets, without TensorFlow; install "
            "it with `pip install -e '.[tfds]'`."
        ) from error
    try:
        builder: Any = tfds.builder_from_directory(folder)
        file_format = builder.info.file_format.value
    except Exception as error:  # its parsers can raise anything
        raise UserError(
            f"`{folder / INFO}` or `{FEATURES}` cannot be read: {error}."
        ) from error
    if file_format != "array_record":
        raise UserError(
            f"`{folder}` must hold array_record files, which can be read by index, got "
            f"{file_format}. {MADE_BY}."
        )
    return builder


def _check_features(features: Any, folder: Path, size: int | None) -> int:
    """Checks that there are images and labels; returns the number of classes."""
    if not {"image", "label"} <= set(features):
        raise UserError(
            f"`{folder / FEATURES}` must have the features `image` and `label`, got "
            f"{', '.join(features)}."
        )
    if not hasattr(features["label"], "num_classes"):
        raise UserError(f"`label` in `{folder / FEATURES}` must be a ClassLabel.")
    if size is None and None in features["image"].shape:
        raise UserError(
            "`data.image_size` must be given, since images differ in size in "
            f"`{folder}`; all are resized to it."
        )
    return features["label"].num_classes


def _check_shard(path: Path, count: int) -> None:
    """Checks that the file exists, is complete, and has all its examples."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not path.is_file():
        raise UserError(f"`{path}` does not exist.")
    try:
        reader = ArrayRecordReader(str(path))
        found = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"`{path}` is not a complete ArrayRecord file: {error}."
        ) from error
    if found != count:
        raise UserError(
            f"`{path}` must have {count} examples, as `{INFO}` says, got {found}."
        )
