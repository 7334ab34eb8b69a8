# SPDX-License-Identifier: Apache-2.0
"""Small valid files of each format, and broken ones, which are named."""

import gzip
import pickle
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from experiments.config import DataConfig
from experiments.data import load_dataset, train_batches
from experiments.errors import UserError


def config(name, path, **more):
    return DataConfig(name=name, path=str(path), batch_size=2, **more)


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    data = header + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def mnist(tmp_path, rng):
    """Packed training files, plain test files."""
    images = rng.integers(0, 256, (7, 28, 28)).astype(np.uint8)
    labels = np.arange(7, dtype=np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images[:5])
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels[:5])
    write_idx(tmp_path / "t10k-images-idx3-ubyte", images[5:])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", labels[5:])
    return tmp_path, images


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx(name, mnist):
    folder, images = mnist
    data = load_dataset(config(name, folder))
    assert (len(data.train), len(data.test), data.num_classes) == (5, 2, 10)
    image, label = data.test.load(1, None)
    assert label == 6 and image.dtype == np.float32
    np.testing.assert_allclose(image[..., 0], images[6] / 255.0, rtol=1e-6)


def cifar_images(rng, num=6):
    return rng.integers(0, 256, (num, 3, 32, 32)).astype(np.uint8)


@pytest.fixture(params=["binary", "python"])
def cifar10(request, tmp_path, rng):
    folder = tmp_path / "cifar-10-batches"  # below data.path, as archives unpack
    folder.mkdir()
    images = cifar_images(rng)
    for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        pixels = images[k].reshape(1, -1)
        if request.param == "binary":
            record = np.concatenate([[[k]], pixels], 1).astype(np.uint8)
            (folder / f"{name}.bin").write_bytes(record.tobytes())
        else:
            held = {b"data": pixels, b"labels": [k], b"batch_label": b"x"}
            (folder / name).write_bytes(pickle.dumps(held, protocol=2))
    return tmp_path, images


def test_cifar10(cifar10):
    folder, images = cifar10
    data = load_dataset(config("cifar10", folder))
    assert (len(data.train), len(data.test), data.num_classes) == (5, 1, 10)
    image, label = data.train.load(3, None)
    assert label == 3
    np.testing.assert_allclose(image, images[3].transpose(1, 2, 0) / 255.0, rtol=1e-6)
    assert data.test.load(0, None)[1] == 5


def test_cifar100(tmp_path, rng):
    for name, label in (("train", 99), ("test", 7)):
        record = np.concatenate([[3, label], cifar_images(rng, 1).ravel()])
        (tmp_path / f"{name}.bin").write_bytes(record.astype(np.uint8).tobytes())
    data = load_dataset(config("cifar100", tmp_path))
    assert data.num_classes == 100
    assert (data.train.load(0, None)[1], data.test.load(0, None)[1]) == (99, 7)


@pytest.fixture
def folders(tmp_path, rng):
    for part, num in (("train", 3), ("val", 1)):
        for name in ("cat", "dog"):
            place = tmp_path / part / name
            place.mkdir(parents=True)
            for k in range(num):
                shape = (20 + 10 * k, 30, 3)
                pixels = rng.integers(0, 256, shape).astype(np.uint8)
                kind = ("png", "jpg", "bmp")[k]
                Image.fromarray(pixels).save(place / f"{k}.{kind}")
    return tmp_path


def test_image_folder(folders):
    settings = config("image_folder", folders, image_size=16)
    data = load_dataset(settings)
    assert (len(data.train), len(data.test), data.num_classes) == (6, 2, 2)
    one, same = (data.test.load(1, None) for _ in range(2))
    assert one[0].shape == (16, 16, 3) and one[1] == 1 and one[0].min() >= 0
    np.testing.assert_array_equal(one[0], same[0])
    crops = [data.train.load(0, np.random.default_rng(k))[0] for k in range(2)]
    assert crops[0].shape == (16, 16, 3) and not np.array_equal(*crops)
    batch = next(train_batches(data.train, settings, 0))
    assert batch.image.shape == (2, 16, 16, 3) and batch.image.max() <= 1


def error_of(call):
    with pytest.raises(UserError) as raised:
        call()
    return str(raised.value)


def test_missing_files_say_what_is_wanted_and_where_people_get_it(tmp_path):
    text = error_of(lambda: load_dataset(config("mnist", tmp_path)))
    assert text == (
        "`data.path` must hold `train-images-idx3-ubyte` or "
        "`train-images.idx3-ubyte` or `train-images-idx3-ubyte.gz` or "
        "`train-images.idx3-ubyte.gz`, itself or in a folder below, but "
        f"`{tmp_path}` does not; MNIST is at https://yann.lecun.com/exdb/mnist/."
    )
    text = error_of(lambda: load_dataset(config("cifar10", tmp_path / "no")))
    assert text == (
        f"`data.path` must be a folder, got `{tmp_path / 'no'}`; CIFAR is at "
        "https://www.cs.toronto.edu/~kriz/cifar.html."
    )
    settings = config("image_folder", tmp_path, image_size=16)
    assert "must have the folders `train` and `val`" in error_of(
        lambda: load_dataset(settings)
    )


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda d: d[:-1], "must have 1584 bytes for shape (2, 28, 28), got 1583"),
        (lambda d: b"\x01" + d[1:], "must start with 00 00 08 03"),
        (lambda d: d[:9], "must have a header of 16 bytes, got 9 in all."),
        (lambda d: b"", "got nothing."),
    ],
)
def test_broken_idx(damage, expected, mnist):
    folder, _ = mnist
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    text = error_of(lambda: load_dataset(config("mnist", folder)))
    assert text.startswith(f"`{path}` ") and expected in text


def test_broken_idx_archive_and_labels(mnist):
    folder, _ = mnist
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert f"`{path}` cannot be unpacked: " in error_of(
        lambda: load_dataset(config("mnist", folder))
    )
    path.write_bytes(whole)
    write_idx(folder / "t10k-labels-idx1-ubyte", np.zeros(3, np.uint8))
    assert "must have a label for each of 2 images, got 3." in error_of(
        lambda: load_dataset(config("mnist", folder))
    )
    write_idx(folder / "t10k-labels-idx1-ubyte", np.full(2, 11, np.uint8))
    assert "must have labels from 0 to 9, got 11 to 11." in error_of(
        lambda: load_dataset(config("mnist", folder))
    )


def test_broken_cifar(cifar10):
    folder, _ = cifar10
    path = next(iter(sorted((folder / "cifar-10-batches").glob("test_batch*"))))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    text = error_of(lambda: load_dataset(config("cifar10", folder)))
    assert text.startswith(f"`{path}` ")
    path.write_bytes(b"\x0b" + whole[1:] if path.suffix else b"no pickle")
    text = error_of(lambda: load_dataset(config("cifar10", folder)))
    assert text.startswith(f"`{path}` ")


class Evil:
    def __reduce__(self):
        return (print, ("this must not be printed",))


def test_a_pickle_runs_no_code(tmp_path, capsys):
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    text = error_of(lambda: load_dataset(config("cifar100", tmp_path)))
    assert "it calls builtins.print" in text
    assert capsys.readouterr().out == ""


def test_an_unreadable_image_is_named(folders):
    path = folders / "val" / "dog" / "0.png"
    path.write_bytes(path.read_bytes()[:60])
    data = load_dataset(config("image_folder", folders, image_size=16))
    text = error_of(lambda: data.test.load(1, None))
    assert text.startswith(f"`{path}` cannot be read as an image: ")


def test_folders_without_classes_or_images(folders):
    settings = config("image_folder", folders, image_size=16)
    (folders / "val" / "bird").mkdir()
    text = error_of(lambda: load_dataset(settings))
    assert "got ['cat', 'dog'] and ['bird', 'cat', 'dog']." in text
    (folders / "val" / "bird").rmdir()
    for name in ("cat", "dog"):
        shutil.rmtree(folders / "val" / name)
        (folders / "val" / name).mkdir()
    assert "must have images (.bmp, .jpeg" in error_of(lambda: load_dataset(settings))
