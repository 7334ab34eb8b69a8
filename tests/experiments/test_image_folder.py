# SPDX-License-Identifier: Apache-2.0
"""Folders of images: which entries are classes and images, and what is left out."""

import contextlib
import os
import re
import shutil
import socket

import numpy as np
import pytest
from PIL import Image

from experiments.data import inspection, load_dataset, train_batches
from experiments.data.shapes import shapes_of
from tests.experiments.commands import one_line_error, run
from tests.experiments.readers import (
    config,
    error_of,
    refusal,
    refused_line,
    train,
    training,
)


@pytest.fixture
def folders(tmp_path, rng):
    """Three images of each class to train on, one to test on."""
    data = tmp_path / "data"
    for part, num in (("train", 3), ("val", 1)):
        for name in ("cat", "dog"):
            place = data / part / name
            place.mkdir(parents=True)
            for k in range(num):
                shape = (20 + 10 * k, 30, 3)
                pixels = rng.integers(0, 256, shape).astype(np.uint8)
                kind = ("png", "jpg", "bmp")[k]
                Image.fromarray(pixels).save(place / f"{k}.{kind}")
    return data


def load(folder):
    return load_dataset(config("image_folder", folder, image_size=16))


def refused(folder):
    return refusal("image_folder", folder, image_size=16)


def test_a_tidy_folder(folders):
    settings = config("image_folder", folders, image_size=16)
    data = load_dataset(settings)
    assert (len(data.train), len(data.test), data.num_classes) == (6, 2, 2)
    assert data.class_names == ("cat", "dog") and data.notes == ()
    one, same = (data.test.load(1, None) for _ in range(2))
    assert one[0].shape == (16, 16, 3) and one[1] == 1 and one[0].min() >= 0
    np.testing.assert_array_equal(one[0], same[0])
    crops = [data.train.load(0, np.random.default_rng(k))[0] for k in range(2)]
    assert crops[0].shape == (16, 16, 3) and not np.array_equal(*crops)
    batch = next(train_batches(data.train, settings, 0))
    assert batch.image.shape == (2, 16, 16, 3) and batch.image.max() <= 1


def test_images_below_the_folder_of_a_class_are_of_it(folders):
    below = folders / "train" / "cat" / "black" / "old"
    below.mkdir(parents=True)
    (folders / "train" / "cat" / "0.png").rename(below / "0.PNG")
    data = load(folders)
    assert data.class_names == ("cat", "dog") and data.notes == ()
    assert np.bincount(data.train.label).tolist() == [3, 3]


def left_out(data, folders):
    """Number and first of what the notes list, by the reason."""
    pattern = rf"`{folders}`: (.*) are left out: (\d+), the first `(.*)`\."
    found = [re.fullmatch(pattern, note).groups() for note in data.notes]
    return {reason: (int(num), first) for reason, num, first in found}


def clutter(folders):
    """What archives, systems and programs leave behind."""
    cat, dog = folders / "train" / "cat", folders / "train" / "dog"
    shutil.copytree(cat, folders / "train" / "__MACOSX" / "cat")
    shutil.copytree(cat, folders / "train" / ".cache")
    shutil.copytree(cat, dog / ".ipynb_checkpoints")
    (cat / "._0.png").write_bytes(b"resource fork")
    (cat / "labels.txt").write_bytes(b"x")
    (dog / "0.png.bak").write_bytes(b"x")
    (folders / "train" / "bird").mkdir()
    shutil.copy(cat / "0.png", folders / "train" / "loose.png")


def test_clutter_is_left_out_and_listed(folders, tmp_path):
    before = load(folders)
    clutter(folders)
    data = load(folders)
    assert data.train.names == before.train.names and data.digest() == before.digest()
    kinds = ".bmp, .jpeg, .jpg, .png, .ppm, .webp"
    assert left_out(data, folders) == {
        f"files whose names do not end in {kinds}": (2, "train/cat/labels.txt"),
        "files outside the folders of classes": (1, "train/loose.png"),
        "folders of classes without images": (1, "train/bird"),
        "hidden files and folders": (4, "train/.cache"),
    }
    result = train("image_folder", folders, tmp_path / "run")
    assert result.returncode == 0 and not result.stderr, result.stderr
    assert all(note in result.stdout for note in data.notes)


def link(folders):
    """Links out of the data, links to folders, a loop, devices and pipes."""
    cat = folders / "train" / "cat"
    shutil.copy(cat / "0.png", folders.parent / "outside.png")
    (cat / "out.png").symlink_to(folders.parent / "outside.png")
    (cat / "loop.png").symlink_to("loop.png")
    (cat / "above").symlink_to("..")
    (cat / "zero.png").symlink_to("/dev/zero")
    (cat / "gone.png").symlink_to("gone")
    (folders / "train" / "linked").symlink_to(folders / "val" / "cat")
    os.mkfifo(cat / "pipe.png")
    # A socket's path must be short.
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(cat):
        made.bind("socket.png")


@pytest.mark.parametrize("add", [clutter, link])
def test_plan_counts_the_classes_of_the_data(folders, add):
    add(folders)
    settings = config("image_folder", folders, image_size=16)
    assert shapes_of(settings).num_classes == load_dataset(settings).num_classes == 2


def test_links_devices_and_pipes_are_no_images(folders):
    before = load(folders)
    link(folders)
    data = load(folders)
    assert data.train.names == before.train.names and data.num_classes == 2
    links = "links to folders, to files elsewhere, and broken links"
    assert left_out(data, folders) == {
        links: (6, "train/cat/above"),
        "pipes, sockets and devices": (2, "train/cat/pipe.png"),
    }


def test_links_within_the_data_are_images(folders):
    """As git-annex arranges them; `train` may be one itself."""
    (folders / "store").mkdir()
    image = folders / "train" / "cat" / "0.png"
    image.rename(folders / "store" / "a.png")
    image.symlink_to("../../store/a.png")
    assert len(load(folders).train) == 6
    (folders / "train").rename(folders.parent / "elsewhere")
    (folders / "train").symlink_to(folders.parent / "elsewhere")
    (folders.parent / "elsewhere" / "cat" / "0.png").unlink()
    assert len(load(folders).train) == 5


def test_an_unused_test_folder_is_named(folders):
    shutil.copytree(folders / "train", folders / "test")
    data = load(folders)
    assert len(data.test) == 2
    assert data.notes == (
        f"`{folders}`: the folder `test` is left out: `val` has the test images.",
    )
    shutil.rmtree(folders / "val")
    data = load(folders)
    assert len(data.test) == 6 and data.notes == ()


def test_classes_without_test_images_are_named(folders):
    shutil.rmtree(folders / "val" / "cat")
    data = load(folders)
    assert data.test.label.tolist() == [1]
    assert data.notes == (
        f"`{folders / 'val'}`: classes without test images: 1, the first `cat`.",
    )


@pytest.mark.parametrize("empty", [False, True])
def test_a_class_without_training_images(empty, folders, tmp_path):
    train, bird = folders / "train", folders / "val" / "bird"
    shutil.copytree(folders / "val" / "cat", bird)
    text = (
        f"`{train / 'bird'}` must have training images of the class `bird`, since "
        f"`{bird}` has images of it."
    )
    if empty:
        (train / "bird").mkdir()
        text += (
            f" `{folders}`: folders of classes without images are left out: 1, the "
            "first `train/bird`."
        )
    line = refused_line("image_folder", folders, tmp_path / "run")
    assert line == f"error: {text}" and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "other"), [("cat", "Cat"), ("caf\u00e9", "cafe\u0301")]
)
def test_names_of_classes_that_look_the_same(name, other, folders):
    (folders / "train" / "cat").rename(folders / "train" / name)
    (folders / "val" / "cat").rename(folders / "val" / other)
    assert refused(folders).endswith(
        f" has images of it; `{name}` differs from it in case or in the encoding of "
        "letters."
    )
    (folders / "val" / other).rename(folders / "val" / name)
    (folders / "train" / "dog").rename(folders / "train" / other)
    (folders / "val" / "dog").rename(folders / "val" / other)
    assert set(load(folders).class_names) == {name, other}  # files tell them apart


def test_folders_without_classes_or_images(folders):
    text = refused(folders / "train")
    assert text.startswith("`data.path` must have the folders `train` and `val` (or ")
    for name in ("cat", "dog"):
        (folders / "val" / name / "0.png").unlink()
    assert f"`{folders / 'val'}` has no images in the folders of" in refused(folders)
    (folders / "train" / "dog").rename(folders / "train" / ".dog")
    assert refused(folders).startswith(
        f"`{folders / 'train'}` must have folders of images of at least two classes, "
        f"got `cat`. `{folders}`: hidden files and folders are left out: 1, the first "
    )
    shutil.rmtree(folders / "train" / "cat")
    assert "of at least two classes, got none. " in refused(folders)


def test_images_without_bytes_are_refused(folders, tmp_path):
    for name in ("1.jpg", "2.bmp"):
        (folders / "train" / "dog" / name).write_bytes(b"")
    line = refused_line("image_folder", folders, tmp_path / "run")
    assert line == (
        f"error: `{folders / 'train'}` must have no images of 0 bytes, got 2, the "
        f"first `{folders / 'train' / 'dog' / '1.jpg'}`; was the download interrupted? "
        "Replace or remove them."
    )


def test_some_images_are_inspected_before_training(folders, monkeypatch):
    """Here two of each part: of those to train on, the first and the fourth."""
    monkeypatch.setattr(inspection, "NUM_INSPECTED", 2)
    Image.new("LA", (20, 20)).save(folders / "train" / "cat" / "0.png")
    Image.new("LA", (20, 20)).save(folders / "train" / "cat" / "2.bmp", "png")
    data = load(folders)
    (note,) = data.notes
    assert note == (
        "Alpha is dropped, and the colors behind it stay: 1 of the 4 images inspected, "
        f"the first `{folders / 'train' / 'cat' / '0.png'}`."
    )
    path = folders / "train" / "cat" / "1.jpg"
    path.write_bytes(b"no image")
    text = f"`{path}` must be an image of the formats JPEG, PNG, BMP, WEBP, PPM."
    assert error_of(lambda: load(folders).train.load(1, None)) == text
    fourth = folders / "train" / "dog" / "0.png"
    shutil.copy(path, fourth)
    assert refused(folders).startswith(f"`{fourth}` must be an image of the formats ")


def test_damage_after_the_header_is_found_when_it_is_read(folders, tmp_path):
    path = folders / "val" / "dog" / "0.png"
    path.write_bytes(path.read_bytes()[:60])
    data = load(folders)
    text = error_of(lambda: data.test.load(1, None))
    assert text.startswith(f"`{path}` cannot be read as an image: ")
    line = refused_line("image_folder", folders, tmp_path / "run")
    assert line == f"error: {text}"


def test_notes_and_errors_are_one_line_whatever_names_hold(folders, tmp_path):
    """By a process of its own, since names go through its streams."""
    strange = os.fsdecode(b"-\xff\n[red]\x1b[31m:cat:")
    (folders / "train" / "cat").rename(folders / "train" / strange)
    (folders / "val" / "cat").rename(folders / "val" / strange)
    Image.new("LA", (20, 20)).save(folders / "train" / strange / "0.png")
    shown = r"-\udcff\n[red]\x1b[31m:cat:"
    result = run(*training("image_folder", folders, tmp_path / "run"))
    assert result.returncode == 0 and not result.stderr, result.stderr
    assert (
        "Alpha is dropped, and the colors behind it stay: 1 of the 8 images inspected, "
        f"the first `{folders / 'train' / shown / '0.png'}`.\n"
    ) in result.stdout
    (folders / "val" / strange / "0.png").write_bytes(b"")
    line = one_line_error(run(*training("image_folder", folders, tmp_path / "other")))
    assert f"the first `{folders / 'val' / shown / '0.png'}`;" in line


def test_what_the_digest_of_a_folder_covers(folders):
    before = load(folders)
    assert load(folders).digest() == before.digest()
    image = folders / "train" / "cat" / "0.png"
    image.rename(image.with_name("3.png"))
    renamed = load(folders)
    assert renamed.train.digest() != before.train.digest()
    assert renamed.test.digest() == before.test.digest()
    with (folders / "train" / "cat" / "3.png").open("ab") as file:
        file.write(b"x")
    longer = load(folders)
    assert longer.digest() != renamed.digest()
    test = folders / "val" / "dog" / "0.png"
    test.rename(folders / "val" / "cat" / "1.png")
    assert load(folders).digest() != longer.digest()
