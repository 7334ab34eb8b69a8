# SPDX-License-Identifier: Apache-2.0
"""ArrayRecord files as TensorFlow Datasets writes them, and broken ones."""

import io
import json
import os
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from experiments.data import EvalBatches, inspection, load_dataset, train_batches
from tests.experiments import readers
from tests.experiments.commands import one_line_error

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of what it imports
    import tensorflow_datasets as tfds

NUM = {"train": 5, "test": 3}


def image_of(split, number, height=12):
    rng = np.random.default_rng((number, len(split)))
    return rng.integers(0, 256, (height, 12, 3)).astype(np.uint8)


def png(image, **options):
    """A file, which the library stores as it is: encoding would take TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png", **options)
    file.seek(0)
    return file


def example(split, number):
    return png(image_of(split, number)), number % 3


def prepare(folder, example=example, splits=NUM, **features):
    features = {
        "image": tfds.features.Image(shape=(12, 12, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    } | features

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = folder
        url_infos = None  # nothing is downloaded

        def _info(self):
            features_ = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features_)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            for k in range(splits[split]):
                image, label = example(split, k)
                yield k, {"image": image, "label": label}

    Tiny(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder / "tiny" / "1.0.0"


@pytest.fixture
def folder(tmp_path):
    return prepare(tmp_path)


def config(folder, **more):
    return readers.config("tfds", folder, **more)


def error_of(settings):
    return readers.error_of(lambda: load_dataset(settings))


def refused_line(folder, workdir):
    return readers.refused_line("tfds", folder, workdir)


def test_every_example_once_as_it_was_written(folder):
    data = load_dataset(config(folder))
    assert (len(data.train), len(data.test), data.num_classes) == (5, 3, 3)
    batches = list(EvalBatches(data.test, 2))
    assert batches[1].mask.tolist() == [True, False]
    read = np.concatenate([batch.image for batch in batches])[:3]
    written = np.stack([image_of("test", k) for k in range(3)]) / 255
    # The library shuffles what it writes.
    order = [int(np.abs(written - image).sum((1, 2, 3)).argmin()) for image in read]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(read, written[order], rtol=1e-6)
    labels = np.concatenate([batch.label for batch in batches])[:3]
    assert labels.tolist() == order
    assert "tensorflow" not in sys.modules


def test_images_of_several_sizes_are_brought_to_one(tmp_path):
    image = tfds.features.Image(shape=(None, 12, 3))
    folder = prepare(
        tmp_path,
        lambda split, k: (png(image_of(split, k, height=12 + k)), k % 3),
        image=image,
    )
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


def test_a_damaged_record_is_named(folder, tmp_path):
    """Its checksum tells, once it is read."""
    path = only(folder, "tiny-train*")
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    line = refused_line(folder, tmp_path / "run")
    assert line.startswith(f"error: `{folder}`: example 0 of `train` cannot be read: ")


def test_a_stranger_s_features_import_no_module(folder, tmp_path, monkeypatch):
    """Named at any depth, in JSON within JSON, in either spelling, or as a builder."""
    (tmp_path / "stranger.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'w').close()"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path, name = folder / "features.json", "stranger.Feature"
    good = json.loads(path.read_text())
    label = good["featuresDict"]["features"]["label"]
    legacy = {"type": name, "content": {}}
    known = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    inner = json.dumps({"label": legacy})
    for features in (
        good | {"pythonClassName": name},
        {"python_class_name": name},
        legacy,
        {"type": known, "content": {"image": legacy}},
        {"pythonClassName": known, "jsonFeature": {"json": inner}},
        {**good, "featuresDict": {"features": {
            "image": {**label, "pythonClassName": name}, "label": label}}},
    ):  # fmt: skip
        path.write_text(json.dumps(features))
        assert error_of(config(folder)) == (
            f"`{path}` must name features of TensorFlow Datasets itself, got `{name}`; "
            "no other module is imported."
        )
    path.write_text(json.dumps(good))
    info = folder / "dataset_info.json"
    held = info.read_text()
    for features in ({"pythonClassName": name}, json.dumps(legacy)):
        change(info, features=features)
        assert f"`{info}` must name features of " in error_of(config(folder))
    info.write_text(held)
    path.write_text("[" * 100_000)
    assert f"`{path}` cannot be read: " in error_of(config(folder))
    path.write_bytes(b'"\xff"')
    assert f"`{path}` cannot be read: 'utf-8' codec" in error_of(config(folder))
    path.write_text(json.dumps(good))
    change(info, moduleName="stranger")
    load_dataset(config(folder))
    assert not (tmp_path / "imported").exists() and "stranger" not in sys.modules


def change_feature(folder, name, kind, **fields):
    path = folder / "features.json"
    features = json.loads(path.read_text())
    features["featuresDict"]["features"][name][kind].update(fields)
    path.write_text(json.dumps(features))


@pytest.mark.parametrize(("split", "label"), [("train", 7), ("test", 7), ("train", -1)])
def test_a_label_out_of_range(split, label, tmp_path):
    """Before training, if it is among those that are inspected."""

    def changed(place, number):
        image, right = example(place, number)
        return image, label if (place, number) == (split, 2) else right

    classes = tfds.features.ClassLabel(num_classes=8)
    folder = prepare(tmp_path, changed, label=classes)
    change_feature(folder, "label", "classLabel", numClasses="3")
    line = refused_line(folder, tmp_path / "run")
    assert line.startswith(f"error: `{folder}`: example ")
    assert line.endswith(f" of `{split}` must have a label from 0 to 2, got {label}.")
    assert not (tmp_path / "run").exists()


def test_a_label_out_of_range_that_is_not_inspected(tmp_path, monkeypatch):
    def changed(place, number):
        image, right = example(place, number)
        return image, -1 if (place, number) == ("train", 2) else right

    folder = prepare(tmp_path, changed)
    text = error_of(config(folder))  # the library shuffles what it writes
    index = int(text.partition(": example ")[2].split()[0])
    assert index  # of the first alone is looked at now
    monkeypatch.setattr(inspection, "NUM_INSPECTED", 1)
    data = load_dataset(config(folder))
    assert readers.error_of(lambda: data.train.load(index, None)) == text
    result = readers.train("tfds", folder, tmp_path / "run")
    assert f"error: {text}" == one_line_error(result)


def test_a_test_split_without_labels_is_left_out(tmp_path):
    """ImageNet's is one: all its labels are -1."""

    def unlabeled(split, number):
        image, label = example(split, number)
        return image, -1 if split == "test" else label

    folder = prepare(tmp_path / "four", unlabeled, NUM | {"validation": 4, "other": 1})
    data = load_dataset(config(folder))
    assert len(data.test) == 4 and data.test.split == "validation"
    start = f"`{folder}`: the split "
    assert sorted(data.notes) == [
        f"{start}`other` is left out: `validation` is the test set.",
        f"{start}`test` is left out: its labels are -1, which means none.",
    ]
    result = readers.train("tfds", folder, tmp_path / "run")
    assert result.returncode == 0 and all(n in result.stdout for n in data.notes)
    folder = prepare(tmp_path / "two", unlabeled)
    assert error_of(config(folder)) == (
        f"`{folder}` must have the splits `train` and one of test, validation, val, "
        "with labels, got train, test."
    )


def one_of(content, root, **features):
    """A data set of one file of an image for each split."""
    one = {"train": 1, "test": 1}
    return prepare(root, lambda *_: (io.BytesIO(content), 0), one, **features)


GREY = np.arange(144, dtype=np.uint8).reshape(12, 12)
COLORS = image_of("x", 0)
CLEAR = np.dstack([COLORS, GREY])
DEEP = GREY.astype(np.uint16) * 400
NO_ALPHA = ["Alpha is dropped, and the colors behind it stay"]
NO_COLOR = ["Images in color or with a palette become grey"]
EIGHT_BITS = ["16 bits per channel become 8"]
OPAQUE = np.full((12, 12, 1), 255)


def luma(image):
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


@pytest.mark.parametrize(
    ("image", "channels", "expected", "rules"),
    [
        (GREY, 1, GREY[..., None], []),
        (GREY, 3, np.dstack([GREY] * 3), []),
        (DEEP, 1, np.rint(DEEP / 257)[..., None], EIGHT_BITS),
        (COLORS, 1, luma(COLORS), NO_COLOR),
        (COLORS, 4, np.dstack([COLORS, OPAQUE]), []),
        (CLEAR, 4, CLEAR, []),
        (CLEAR, 3, COLORS, NO_ALPHA),
        (CLEAR, 1, luma(COLORS), NO_ALPHA + NO_COLOR),
    ],
)
def test_images_have_the_channels_of_features_json(
    image, channels, expected, rules, tmp_path
):
    """By the rules of folders of images, not as the library decodes them."""
    feature = tfds.features.Image(shape=(12, 12, channels))
    folder = one_of(png(image).getvalue(), tmp_path, image=feature)
    data = load_dataset(config(folder))
    np.testing.assert_allclose(data.train.load(0, None)[0], expected / 255, rtol=1e-6)
    end = f": 2 of the 2 images inspected, the first `{folder}`: example 0 of `train`."
    assert data.notes == tuple(f"{rule}{end}" for rule in rules)


def test_an_image_of_a_record_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = png(np.rot90(COLORS), exif=exif).getvalue()
    data = load_dataset(config(one_of(content, tmp_path)))
    np.testing.assert_allclose(data.test.load(0, None)[0], COLORS / 255, rtol=1e-6)


def stored_gif():
    file = io.BytesIO()
    Image.fromarray(COLORS).save(file, "gif")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            png(COLORS[:, :9]).getvalue(),
            "must have an image of shape (12, 12, 3), as `features.json` says, got (12",
        ),
        (
            stored_gif(),
            "must be an image of the formats JPEG, PNG, BMP, WEBP, PPM.",
        ),
        (png(COLORS).getvalue()[:60], "cannot be read as an image: "),
    ],
    ids=["shape", "format", "damage"],
)
def test_an_image_that_is_refused(content, text, tmp_path):
    line = refused_line(one_of(content, tmp_path), tmp_path / "run")
    start = f"error: `{tmp_path / 'tiny' / '1.0.0'}`: example 0 of `train` "
    assert line.startswith(start + text)


def save_features(folder, **features):
    """Writes `features.json` alone: files need not fit it to be refused by it."""
    features = {
        "image": tfds.features.Image(shape=(12, 12, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    } | features
    tfds.features.FeaturesDict(features).save_config(folder)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (
            tfds.features.Tensor(shape=(12, 12, 3), dtype=np.float32),
            "must be an Image of uint8, got Tensor of float32.",
        ),
        (
            tfds.features.Image(shape=(12, 12, 1), dtype=np.uint16),
            "must be an Image of uint8, got Image of uint16.",
        ),
        (
            tfds.features.Image(shape=(12, 12, None)),
            "must have 1, 3 or 4 channels, got None.",
        ),
    ],
)
def test_images_of_other_types(image, text, folder):
    save_features(folder, image=image)
    assert error_of(config(folder)) == f"`image` in `{folder / 'features.json'}` {text}"


@pytest.mark.parametrize(
    ("label", "got"),
    [
        (tfds.features.Scalar(np.int64), "Scalar of no classes"),
        (tfds.features.Text(), "Text of no classes"),
        (tfds.features.ClassLabel(), "ClassLabel of no classes"),
        (tfds.features.ClassLabel(num_classes=2**20 + 1), "ClassLabel of 1048577 cl"),
    ],
)
def test_labels_of_other_types(label, got, folder):
    save_features(folder, label=label)
    assert error_of(config(folder)).startswith(
        f"`label` in `{folder / 'features.json'}` must be a ClassLabel of 1 to 1048576 "
        f"classes, got {got}"
    )


@pytest.mark.parametrize(
    ("feature", "got"),
    [
        (tfds.features.Image(shape=(12, 12, 3)), "none"),
        (
            tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(9, 9, 3))}),
            "image",
        ),
    ],
)
def test_features_without_image_or_label(feature, got, folder):
    feature.save_config(folder)
    assert error_of(config(folder)) == (
        f"`{folder / 'features.json'}` must have the features `image` and `label`, got "
        f"{got}."
    )


def test_features_that_are_not_asked_for_are_not_read(folder):
    """Nor need they be in the records."""
    box, words = tfds.features.BBoxFeature(), tfds.features.Text()
    save_features(folder, box=box, more=tfds.features.Sequence({"word": words}))
    assert load_dataset(config(folder)).train.load(0, None)[0].shape == (12, 12, 3)


@pytest.mark.parametrize(
    ("names", "got"),
    [
        ("a\nb\n", "2, of which 2 differ"),
        ("a\nb\nc\nd\n", "4, of which 4 differ"),
        ("a\nb\na\n", "3, of which 2 differ"),
    ],
)
def test_names_of_classes_are_as_many_as_the_classes(names, got, folder, tmp_path):
    path = folder / "label.labels.txt"
    path.write_text("a\nb\nc\n")
    assert load_dataset(config(folder)).class_names == ("a", "b", "c")
    path.write_text(names)
    assert refused_line(folder, tmp_path / "run") == (
        f"error: `{path}` must have 3 different names of classes, as `features.json` "
        f"says, got {got}."
    )


@pytest.mark.parametrize("template", ["../{SPLIT}", "/etc/{SPLIT}", "a/../../{SPLIT}"])
def test_files_out_of_the_folder_are_not_read(template, folder, tmp_path):
    info = folder / "dataset_info.json"
    splits = json.loads(info.read_text())["splits"]
    change(info, splits=[split | {"filepathTemplate": template} for split in splits])
    path = folder / template.format(SPLIT="test")
    assert refused_line(folder, tmp_path / "run") == (
        f"error: `{info}` must name files in its own folder, got `{path}`, which is "
        f"`{os.path.normpath(path)}`."
    )


def test_a_link_out_of_the_folder_is_not_read(folder, tmp_path):
    path = only(folder, "tiny-train*")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert error_of(config(folder)) == (
        f"`{folder / 'dataset_info.json'}` must name files in its own folder, got "
        f"`{path}`, which is `{tmp_path / 'elsewhere'}`."
    )


def test_a_template_that_does_not_fit(folder):
    info = folder / "dataset_info.json"
    splits = json.loads(info.read_text())["splits"]
    change(info, splits=[s | {"filepathTemplate": "{X}"} for s in splits])
    assert error_of(config(folder)).startswith(f"`{info}` cannot be read: ")


@pytest.mark.parametrize("name", ["label.labels.txt", "metadata.json"])
def test_pipes_are_not_opened(name, folder, tmp_path):
    """The library opens more files than a data set must have."""
    path = folder / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    line = refused_line(folder, tmp_path / "run")
    assert line == f"error: `{path}` must be a regular file."


def test_a_digest_tells_shards_apart(folder, tmp_path):
    one, same = (load_dataset(config(folder)).digest() for _ in range(2))
    other = prepare(tmp_path / "other", lambda *_: (png(COLORS * 0), 0))
    assert one == same != load_dataset(config(other)).digest()
