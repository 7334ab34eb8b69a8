# SPDX-License-Identifier: Apache-2.0
"""ArrayRecord files as TensorFlow Datasets writes them, and broken ones."""

import io
import json
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from experiments.config import DataConfig
from experiments.data import EvalBatches, load_dataset, train_batches
from experiments.errors import UserError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of what it imports
    import tensorflow_datasets as tfds

NUM = {"train": 5, "test": 3}


def image_of(split, number, sizes):
    height = 12 + (number if sizes == "several" else 0)
    rng = np.random.default_rng((number, len(split)))
    return rng.integers(0, 256, (height, 12, 3)).astype(np.uint8)


def png(image):
    """A file, which the library stores as it is: encoding would take TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    file.seek(0)
    return file


def prepare(folder, sizes="one"):
    height = None if sizes == "several" else 12
    features = {
        "image": tfds.features.Image(shape=(height, 12, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = folder
        url_infos = None  # nothing is downloaded

        def _info(self):
            features_ = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features_)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in NUM}

        def _generate_examples(self, split):
            for k in range(NUM[split]):
                yield k, {"image": png(image_of(split, k, sizes)), "label": k % 3}

    Tiny(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder / "tiny" / "1.0.0"


@pytest.fixture
def folder(tmp_path):
    return prepare(tmp_path)


def config(folder, **more):
    return DataConfig(name="tfds", path=str(folder), batch_size=2, **more)


def error_of(settings):
    with pytest.raises(UserError) as raised:
        load_dataset(settings)
    return str(raised.value)


def test_every_example_once_as_it_was_written(folder):
    data = load_dataset(config(folder))
    assert (len(data.train), len(data.test), data.num_classes) == (5, 3, 3)
    batches = list(EvalBatches(data.test, 2))
    assert batches[1].mask.tolist() == [True, False]
    read = np.concatenate([batch.image for batch in batches])[:3]
    written = np.stack([image_of("test", k, "one") for k in range(3)]) / 255
    # The library shuffles what it writes.
    order = [int(np.abs(written - image).sum((1, 2, 3)).argmin()) for image in read]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(read, written[order], rtol=1e-6)
    labels = np.concatenate([batch.label for batch in batches])[:3]
    assert labels.tolist() == order
    assert "tensorflow" not in sys.modules


def test_images_of_several_sizes_are_brought_to_one(tmp_path):
    folder = prepare(tmp_path, "several")
    text = error_of(config(folder))
    assert text == (
        f"`data.image_size` must be given, since images differ in size in `{folder}`; "
        "all are resized to it."
    )
    settings = config(folder, image_size=8)
    data = load_dataset(settings)
    assert next(train_batches(data.train, settings, 0)).image.shape == (2, 8, 8, 3)
    one, same = (data.test.load(1, None)[0] for _ in range(2))
    np.testing.assert_array_equal(one, same)


def only(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.unlink(), "does not exist."),
        (
            lambda path: path.write_bytes(path.read_bytes()[:5000]),
            "is not a complete ArrayRecord file: ",
        ),
        (lambda path: path.write_bytes(b"x" * 70000), "is not a complete ArrayRecord"),
    ],
    ids=["missing", "truncated", "garbage"],
)
def test_a_broken_file_is_named_before_training(damage, expected, folder):
    path = only(folder, "tiny-train*")
    damage(path)
    assert error_of(config(folder)).startswith(f"`{path}` {expected}")


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_else_may_be_wrong_with_a_folder(folder, tmp_path, monkeypatch):
    text = error_of(config(tmp_path))
    assert text.startswith(
        "`data.path` must have the file `dataset_info.json`, but "
        f"`{tmp_path}` does not; give "
    )
    info = folder / "dataset_info.json"
    good = info.read_text()
    splits = json.loads(good)["splits"]
    change(info, splits=splits[:1])
    assert "must have the splits `train` and one of test, " in error_of(config(folder))
    splits[0]["shardLengths"] = ["6"]
    change(info, splits=splits)
    assert "must have 6 examples, as `dataset_info.json` says, got 5." in error_of(
        config(folder)
    )
    info.write_text(good)
    change(info, fileFormat="tfrecord")
    text = error_of(config(folder))
    assert "read by index, got tfrecord. TensorFlow D" in text
    info.write_text("{")
    assert "cannot be read: " in error_of(config(folder))
    info.write_text(good)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert "needs TensorFlow Datasets, without TensorFlow;" in error_of(config(folder))


def test_an_image_that_cannot_be_decoded(folder):
    data = load_dataset(config(folder))

    class Broken:
        def __getitem__(self, index):
            raise OSError("cannot identify image file")

    broken = type(data.test)(Broken(), folder, "test", None)
    with pytest.raises(UserError, match="example 1 of `test` cannot be read: cannot"):
        broken.load(1, None)
