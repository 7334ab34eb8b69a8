# SPDX-License-Identifier: Apache-2.0
"""Folders of TensorFlow Datasets in ArrayRecord files, read without TensorFlow."""

import dataclasses
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from experiments.data.examples import Dataset, digest_of
from experiments.data.images import MODES, as_float, decoded, dropped, resized
from experiments.data.inspection import inspect, spread
from experiments.errors import UserError, first_line

INFO, FEATURES = "dataset_info.json", "features.json"
NAMES = "label.labels.txt"
CLASS_KEYS = ("pythonClassName", "python_class_name")
TESTS = ("test", "validation", "val")
MAX_CLASSES = 2**20
UNLABELED = -1
MADE_BY = (
    "TensorFlow Datasets writes such a folder: "
    '`tfds.builder(NAME, file_format="array_record").download_and_prepare()`'
)


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
    """Examples in ArrayRecord files, by index."""

    records: Sequence[Any]
    features: Any  # TensorFlow Datasets' FeaturesDict of `image` and `label` alone
    folder: Path
    split: str
    size: int | None
    shards: tuple[tuple[str, int, int], ...]  # name, number of examples, bytes
    num_bytes: int  # of the examples without the padding of the files

    def __len__(self) -> int:
        return len(self.records)

    def load(
        self, index: int, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, int]:
        """Returns the image, or a part of it resized if sizes differ, and the label."""
        name, shape = self.name(index), self.features["image"].shape
        file, label = self._checked(index)
        # Not by the library: it opens images in all formats, of any size and depth.
        image = decoded(file, name, MODES[shape[-1]])
        if self.size is not None:
            return resized(image, self.size, rng), label
        pixels = np.asarray(image).reshape(image.height, image.width, shape[-1])
        if pixels.shape != shape:
            raise UserError(
                f"{name} must have an image of shape {shape}, as `{FEATURES}` says, "
                f"got {pixels.shape}."
            )
        return as_float(pixels), label

    def name(self, index: int) -> str:
        """Returns what errors and notes call an example."""
        return f"`{self.folder}`: example {index} of `{self.split}`"

    def inspect(self, index: int) -> list[str]:
        """Returns the rules by which a part of the image is dropped; reads its header.

        Raises:
            UserError: the example has no label in range, or no image.
        """
        file, _ = self._checked(index)
        mode = MODES[self.features["image"].shape[-1]]
        return dropped(file, self.name(index), mode)

    def has_labels(self) -> bool:
        """Returns whether any of the examples that are looked at has a label."""
        some = spread(self)
        return not some or any(self._example(k)["label"] != UNLABELED for k in some)

    def _checked(self, index: int) -> tuple[IO[bytes], int]:
        """Returns the file of the image, and the label, which is in range."""
        example = self._example(index)
        label, num_classes = int(example["label"]), self.features["label"].num_classes
        if not 0 <= label < num_classes:
            raise UserError(
                f"{self.name(index)} must have a label from 0 to {num_classes - 1}, "
                f"got {label}."
            )
        return io.BytesIO(example["image"]), label

    def _example(self, index: int) -> dict[str, Any]:
        """Returns the label and the file of the image, which Pillow decodes later."""
        from tensorflow_datasets import decode

        try:
            return self.features.deserialize_example_np(
                self.records[index], decoders={"image": decode.SkipDecoding()}
            )
        except Exception as error:  # its decoders can raise anything
            raise UserError(
                f"{self.name(index)} cannot be read: {first_line(error)}."
            ) from error

    def digest(self) -> str:
        """Returns a digest of the files' names, lengths and sizes, not of the bytes."""
        return digest_of(self.shards, self.num_bytes)


def load(folder: Path, size: int | None) -> Dataset:
    """Opens the splits `train` and `test` (or `validation`, or `val`).

    A test split without labels, which are then -1, is left out. The files must be in
    the folder, and complete; up to `NUM_INSPECTED` examples of each split are checked:
    the label, and the header of the image.

    Raises:
        UserError: a file is missing or broken, there are no such splits, or an example
            is refused.
    """
    builder = _builder(folder)
    splits = builder.info.splits
    features = _checked_features(builder.info.features, folder, size)
    test, unlabeled = None, []
    for split in filter(splits.__contains__, TESTS):
        source = _open(builder, split, features, folder, size)
        if source.has_labels():
            test = source
            break
        unlabeled.append(split)
    if "train" not in splits or test is None:
        raise UserError(
            f"`{folder}` must have the splits `train` and one of {', '.join(TESTS)}, "
            f"with labels, got {', '.join(splits) or 'none'}."
        )
    train, label = _open(builder, "train", features, folder, size), features["label"]
    why = dict.fromkeys(splits, f"`{test.split}` is the test set")
    why |= dict.fromkeys(unlabeled, f"its labels are {UNLABELED}, which means none")
    notes = [
        f"`{folder}`: the split `{split}` is left out: {reason}."
        for split, reason in why.items()
        if split not in ("train", test.split)
    ]
    return Dataset(
        train,
        test,
        label.num_classes,
        class_names=tuple(label.names),
        notes=(*notes, *inspect(train, test)),
    )


def _open(
    builder: Any, split: str, features: Any, folder: Path, size: int | None
) -> TfdsSource:
    """Returns the examples of a split, whose files are checked."""
    info = builder.info.splits[split]
    try:  # the names are formatted by a template in the file
        files = list(zip(map(Path, info.filepaths), info.shard_lengths, strict=True))
    except Exception as error:
        raise UserError(
            f"`{folder / INFO}` cannot be read: {first_line(error)}."
        ) from error
    shards = tuple(_checked_shard(path, count, folder) for path, count in files)
    records = _raw_records(builder, split)
    return TfdsSource(records, features, folder, split, size, shards, info.num_bytes)


def _raw_records(builder: Any, split: str) -> Sequence[Any]:
    """Returns the serialized examples of a split."""
    from tensorflow_datasets import decode

    return builder.as_data_source(
        split, deserialize_method=decode.DeserializeMethod.RAW_BYTES
    )


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
    for path in folder.iterdir():  # the library may open any of them
        if not path.is_file() and not path.is_dir():
            raise UserError(f"`{path}` must be a regular file.")
    for name in (INFO, FEATURES):
        _check_classes(folder / name)
    try:
        builder: Any = tfds.builder_from_directory(folder)
        file_format = builder.info.file_format.value
    except Exception as error:  # its parsers can raise anything
        raise UserError(
            f"`{folder / INFO}` or `{FEATURES}` cannot be read: {first_line(error)}."
        ) from error
    if file_format != "array_record":
        raise UserError(
            f"`{folder}` must hold array_record files, which can be read by index, got "
            f"{file_format}. {MADE_BY}."
        )
    return builder


def _check_classes(path: Path) -> None:
    """Raises if the file names a class of another module, which would be imported."""
    import tensorflow_datasets as tfds

    known: set[str] = set()
    for feature in vars(tfds.features).values():
        if isinstance(feature, type):
            known |= {f"{feature.__module__}.{feature.__name__}"}
            known |= set(getattr(feature, "ALIASES", ()))
    try:
        named = list(_named_classes(json.loads(path.read_text("utf-8"))))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"`{path}` cannot be read: {first_line(error)}.") from error
    for name in named:
        if name not in known:
            raise UserError(
                f"`{path}` must name features of TensorFlow Datasets itself, got "
                f"`{name}`; no other module is imported."
            )


def _named_classes(value: Any) -> Iterator[str]:
    """Yields what TensorFlow Datasets may take for a class, in JSON within JSON too."""
    if isinstance(value, str):
        try:
            inner = json.loads(value)
        except ValueError:
            return
        value = inner if isinstance(inner, dict | list) else None
    if isinstance(value, list):
        for element in value:
            yield from _named_classes(element)
    elif isinstance(value, dict):
        # Older versions write a feature as its type and its content.
        keys = (*CLASS_KEYS, "type") if "content" in value else CLASS_KEYS
        for key, content in value.items():
            if key in keys and isinstance(content, str):
                yield content
            else:
                yield from _named_classes(content)


def _checked_features(features: Any, folder: Path, size: int | None) -> Any:
    """Returns the features `image` and `label`, once they are what training needs."""
    import tensorflow_datasets as tfds

    path = folder / FEATURES
    kinds: Any = tfds.features
    names = list(features) if isinstance(features, kinds.FeaturesDict) else []
    if not {"image", "label"} <= set(names):
        raise UserError(
            f"`{path}` must have the features `image` and `label`, got "
            f"{', '.join(names) or 'none'}."
        )
    image: Any = features["image"]
    label: Any = features["label"]
    num = label.num_classes if isinstance(label, kinds.ClassLabel) else None
    if not 0 < (num or 0) <= MAX_CLASSES:
        raise UserError(
            f"`label` in `{path}` must be a ClassLabel of 1 to {MAX_CLASSES} classes, "
            f"got {type(label).__name__} of {num or 'no'} classes."
        )
    if not isinstance(image, kinds.Image) or image.np_dtype != np.uint8:
        raise UserError(
            f"`image` in `{path}` must be an Image of uint8, got "
            f"{type(image).__name__} of {image.np_dtype}."
        )
    given = len(label.names), len(set(label.names))
    if given != (num, num):  # the library reads any file of names
        raise UserError(
            f"`{folder / NAMES}` must have {num} different names of classes, as "
            f"`{FEATURES}` says, got {given[0]}, of which {given[1]} differ."
        )
    if image.shape[-1] not in MODES:
        raise UserError(
            f"`image` in `{path}` must have 1, 3 or 4 channels, got {image.shape[-1]}."
        )
    if size is None and None in image.shape:
        raise UserError(
            "`data.image_size` must be given, since images differ in size in "
            f"`{folder}`; all are resized to it."
        )
    return kinds.FeaturesDict({"image": image, "label": label})


def _checked_shard(path: Path, count: int, folder: Path) -> tuple[str, int, int]:
    """Returns name, examples and bytes of a file that is in the folder and complete."""
    from array_record.python.array_record_module import ArrayRecordReader

    place = Path(os.path.realpath(path))
    if not place.is_relative_to(os.path.realpath(folder)):
        raise UserError(
            f"`{folder / INFO}` must name files in its own folder, got `{path}`, which "
            f"is `{place}`."
        )
    if not path.is_file():
        raise UserError(f"`{path}` does not exist.")
    try:
        reader = ArrayRecordReader(str(path))
        found = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"`{path}` is not a complete ArrayRecord file: {first_line(error)}."
        ) from error
    if found != count:
        raise UserError(
            f"`{path}` must have {count} examples, as `{INFO}` says, got {found}."
        )
    return path.name, count, path.stat().st_size
