# SPDX-License-Identifier: Apache-2.0
"""Small files of MNIST and CIFAR, valid ones, and broken ones, which are named."""

import gzip
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from experiments.config import DataConfig
from experiments.data import idx, load_dataset
from experiments.data.idx import read_idx
from tests.experiments.commands import ROOT
from tests.experiments.readers import config, error_of, refusal, refused_line


def header(*shape):
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)


def write_idx(path, array):
    data = header(*array.shape) + array.tobytes()
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


def test_fashion_mnist_needs_no_path_where_its_package_is(mnist, monkeypatch):
    folder, _ = mnist
    monkeypatch.setitem(idx.INSTALLED, "fashion_mnist", folder)
    data = load_dataset(DataConfig(name="fashion_mnist"))
    assert data.digest() == load_dataset(config("fashion_mnist", folder)).digest()
    assert data.class_names[:2] == ("T-shirt/top", "Trouser")
    nowhere = folder / "nowhere"
    monkeypatch.setitem(idx.INSTALLED, "fashion_mnist", nowhere)
    assert error_of(lambda: load_dataset(DataConfig(name="fashion_mnist"))) == (
        "`data.path` must name the folder of the fashion_mnist files where Debian's "
        "package is not installed (`apt-get install dataset-fashion-mnist` puts them "
        f"into `{nowhere}`); Fashion-MNIST is at "
        "https://github.com/zalandoresearch/fashion-mnist."
    )
    assert len(load_dataset(config("fashion_mnist", folder)).train) == 5


@pytest.mark.skipif(
    not idx.INSTALLED["fashion_mnist"].is_dir(),
    reason="no Fashion-MNIST here: apt install dataset-fashion-mnist",
)
def test_the_packaged_fashion_mnist():
    """The first training image is an ankle boot: nothing at the top, a bright sole."""
    data = load_dataset(DataConfig(name="fashion_mnist"))
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.train.image.shape[1:] == (28, 28, 1)
    for source, each in ((data.train, 6000), (data.test, 1000)):
        assert np.bincount(source.label).tolist() == [each] * 10
    image, label = data.train.load(0, None)
    assert data.class_names[label] == "Ankle boot"
    assert image[:3].max() == 0 and image[20:24, 2:26].mean() > 0.7


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


def test_missing_files_say_what_is_wanted_and_where_people_get_it(tmp_path):
    text = refusal("mnist", tmp_path)
    assert text == (
        "`data.path` must hold `train-images-idx3-ubyte` or "
        "`train-images.idx3-ubyte` or `train-images-idx3-ubyte.gz` or "
        "`train-images.idx3-ubyte.gz`, itself or in a folder below, but "
        f"`{tmp_path}` does not; MNIST is at https://yann.lecun.com/exdb/mnist/."
    )
    text = refusal("cifar10", tmp_path / "no")
    assert text == (
        f"`data.path` must be a folder, got `{tmp_path / 'no'}`; CIFAR is at "
        "https://www.cs.toronto.edu/~kriz/cifar.html."
    )


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda d: d[:-1], "must have 1584 bytes for shape (2, 28, 28), got 1583"),
        (
            lambda d: b"\x01" + d[1:],
            "must start with 00 00 08 03, as idx files of images do, got 01 00 08 03.",
        ),
        (lambda d: d[:3] + b"\x01" + d[4:], "got 00 00 08 01."),
        (lambda d: d[:2] + b"\x0d" + d[3:], "got 00 00 0d 03."),
        (gzip.compress, "got 1f 8b 08 00."),
        (lambda d: d + b"\0", "must have 1584 bytes for shape (2, 28, 28), got more"),
        (lambda d: d[:9], "must have a header of 16 bytes, got 9 in all."),
        (lambda d: b"", "got nothing."),
    ],
)
def test_broken_idx(damage, expected, mnist):
    folder, _ = mnist
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    text = refusal("mnist", folder)
    assert text.startswith(f"`{path}` ") and expected in text


def test_broken_idx_archive_and_labels(mnist):
    folder, _ = mnist
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert f"`{path}` cannot be unpacked: " in refusal("mnist", folder)
    path.write_bytes(whole)
    write_idx(folder / "t10k-labels-idx1-ubyte", np.zeros(3, np.uint8))
    assert "must have a label for each of 2 images, got 3." in refusal("mnist", folder)
    write_idx(folder / "t10k-labels-idx1-ubyte", np.full(2, 11, np.uint8))
    assert "must have labels from 0 to 9, got 11 to 11." in refusal("mnist", folder)


def test_broken_cifar(cifar10):
    folder, _ = cifar10
    path = next(iter(sorted((folder / "cifar-10-batches").glob("test_batch*"))))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    text = refusal("cifar10", folder)
    assert text.startswith(f"`{path}` ")
    path.write_bytes(b"\x0b" + whole[1:] if path.suffix else b"no pickle")
    text = refusal("cifar10", folder)
    assert text.startswith(f"`{path}` ")


class Evil:
    def __reduce__(self):
        return (print, ("this must not be printed",))


def test_a_pickle_runs_no_code(tmp_path, capsys):
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    text = refusal("cifar100", tmp_path)
    assert "it calls builtins.print" in text
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "shape", [(2, 0, 28), (2, 28, 0), (0, 28, 28), (2**32 - 1,) * 3, (2**16, 2**16, 2)]
)
def test_sizes_in_an_idx_header_are_refused(shape, packed, mnist, tmp_path):
    """The product of the fourth is 1 in 32 bits, and negative in 64."""
    folder, _ = mnist
    path = folder / "t10k-images-idx3-ubyte"
    path.unlink()
    path = path.with_name(f"{path.name}.gz") if packed else path
    path.write_bytes(gzip.compress(header(*shape)) if packed else header(*shape))
    assert refused_line("mnist", folder, tmp_path / "run") == (
        f"error: `{path}` must have from 1 to 4294967296 bytes after its header, got "
        f"shape {shape} in it."
    )


def test_an_idx_header_promises_no_more_than_zlib_can_hold(mnist, tmp_path):
    folder, _ = mnist
    (folder / "t10k-images-idx3-ubyte").unlink()
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(header(2**16, 2**15, 2) + bytes(100)))
    line = refused_line("mnist", folder, tmp_path / "run")
    assert "got 116; was its download interrupted?" in line


def test_a_bomb_is_unpacked_no_further_than_its_header_says(tmp_path):
    """By a process of its own, whose memory is measured."""
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header(3, 8, 8))
        for _ in range(512):
            file.write(bytes(2**20))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from experiments.data import idx\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: idx.read_idx(Path(sys.argv[1]), 3)\n"
        "except Exception as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True
    )
    text, is_small = done.stdout.splitlines()
    assert f"`{path}` must have 208 bytes for shape (3, 8, 8), got more" in text
    assert is_small == "True"


def test_an_archive_of_several_members_is_read(tmp_path):
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(header(4)) + gzip.compress(bytes(range(4))))
    assert read_idx(path, 1).tolist() == [0, 1, 2, 3]


def test_an_archive_with_a_flipped_bit_or_a_tail(mnist):
    folder, _ = mnist
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for place in range(40, len(whole), len(whole) // 30):  # after gzip's header
        flipped = bytes([whole[place] ^ 16])
        path.write_bytes(whole[:place] + flipped + whole[place + 1 :])
        assert refusal("mnist", folder).startswith(f"`{path}` ")
    path.write_bytes(whole + b"tail")
    assert f"`{path}` cannot be unpacked: " in refusal("mnist", folder)


def make_device(path):
    path.symlink_to("/dev/zero")


def make_loop(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [os.mkfifo, make_device, make_loop])
@pytest.mark.parametrize(
    ("name", "file"),
    [("mnist", "train-images-idx3-ubyte"), ("cifar100", "train.bin")],
)
def test_pipes_and_devices_are_not_opened(name, file, make, tmp_path):
    make(tmp_path / file)
    line = refused_line(name, tmp_path, tmp_path / "run")
    assert line == f"error: `{tmp_path / file}` must be a regular file."


@pytest.mark.parametrize("name", ["__MACOSX", ".Trash"])
def test_hidden_folders_are_not_searched(name, mnist):
    folder, _ = mnist
    place, file = folder / name, "t10k-labels-idx1-ubyte"
    place.mkdir()
    (folder / file).rename(place / file)
    assert f"must hold `{file}` or " in refusal("mnist", folder)
    place.rename(folder / "below")
    assert len(load_dataset(config("mnist", folder)).test) == 2


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_images_of_another_size(part, mnist, tmp_path):
    """Of either part: `plan` takes the size for known."""
    folder, _ = mnist
    for name in ("train", "t10k"):
        (old,) = folder.glob(f"{name}-images*")
        old.unlink()
        size = (5, 7) if name == part else (28, 28)
        images = np.zeros((5 if name == "train" else 2, *size), np.uint8)
        write_idx(folder / f"{name}-images-idx3-ubyte", images)
    path = folder / f"{part}-images-idx3-ubyte"
    assert refused_line("mnist", folder, tmp_path / "run") == (
        f"error: `{path}` must have images of 28x28, got 5x7."
    )


def test_records_of_binary_cifar_are_whole(cifar10):
    folder, _ = cifar10
    for path in (folder / "cifar-10-batches").glob("data_batch_2.bin"):
        for content in (b"", bytes(3074)):  # the second is a record of CIFAR-100
            path.write_bytes(content)
            assert refusal("cifar10", folder) == (
                f"`{path}` must have records of 3073 bytes, got {len(content)} bytes "
                "in all; was its download interrupted?"
            )


def write_cifar100(folder, batch):
    """The Python version; the batch is of training."""
    good = {b"data": np.zeros((3, 3072), np.uint8), b"fine_labels": [0, 50, 99]}
    if isinstance(batch, dict):
        batch = good | batch
    for name, held in (("train", batch), ("test", good)):
        (folder / name).write_bytes(pickle.dumps(held))


PIXELS = np.zeros((3, 3072), np.int64)
SHAPE = "must have integers of shape (n, 3072) in `data`, got"
VALUES = "must have values from 0 to 255 in `data`, got"
LABELS = "must have integers of shape (n,) in `fine_labels`, got"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({b"data": PIXELS / 255}, f"{SHAPE} float64 of shape (3, 3072)."),
        ({b"data": PIXELS > 0}, f"{SHAPE} bool of shape (3, 3072)."),
        ({b"data": PIXELS[:, 1:]}, f"{SHAPE} int64 of shape (3, 3071)."),
        ({b"data": PIXELS.reshape(3, 3, 32, 32)}, f"{SHAPE} int64 of shape (3, 3, 32"),
        ({b"data": PIXELS[:0]}, "must have at least one image, got none."),
        ({b"data": PIXELS - 1}, f"{VALUES} -1 to -1."),
        ({b"data": PIXELS + 256}, f"{VALUES} 256 to 256."),
        ({b"fine_labels": [0.0, 1.0, 2.5]}, f"{LABELS} float64 of shape (3,)."),
        ({b"fine_labels": [[0], [1], [2]]}, f"{LABELS} int64 of shape (3, 1)."),
        ({b"fine_labels": 3}, f"{LABELS} int64 of shape ()."),
        ({b"fine_labels": [[0], [1, 2]]}, "is not a batch of CIFAR: ValueError: "),
        ({b"fine_labels": [0, 1]}, "must have a label for each of 3 images, got 2."),
        ({b"fine_labels": [0, 1, 100]}, "must have labels from 0 to 99, got 0 to 100."),
        ({b"fine_labels": [0, 1, -1]}, "must have labels from 0 to 99, got -1 to 1."),
        ([1], "must hold a dictionary, as CIFAR's batches do, got list."),
    ],
)
def test_values_of_python_cifar_are_checked(change, text, tmp_path):
    write_cifar100(tmp_path, change)
    line = refused_line("cifar100", tmp_path, tmp_path / "run")
    assert line.startswith(f"error: `{tmp_path / 'train'}` {text}")


def test_python_cifar_without_an_entry(tmp_path):
    write_cifar100(tmp_path, {})
    batch = pickle.dumps({b"data": PIXELS, b"coarse_labels": [0, 0, 0]})
    (tmp_path / "train").write_bytes(batch)
    assert refusal("cifar100", tmp_path) == (
        f"`{tmp_path / 'train'}` must have the entry `fine_labels`, got 2 other "
        "entries."
    )


@pytest.mark.parametrize("key", [bytes, str])
def test_integers_of_python_cifar_are_read(key, tmp_path):
    """By names of bytes, as Python 2 wrote them, or of text."""
    write_cifar100(tmp_path, {})
    names = ("data", "fine_labels") if key is str else (b"data", b"fine_labels")
    batch = dict(zip(names, (PIXELS + 7, np.arange(3, dtype=np.uint16)), strict=True))
    (tmp_path / "train").write_bytes(pickle.dumps(batch))
    data = load_dataset(config("cifar100", tmp_path))
    assert np.all(data.train.image == 7) and data.train.image.dtype == np.uint8
    assert data.train.label.tolist() == [0, 1, 2]


def test_what_the_digest_of_arrays_covers(mnist):
    folder, images = mnist
    before = load_dataset(config("mnist", folder))
    assert before.digest() == load_dataset(config("mnist", folder)).digest()
    first = load_dataset(config("mnist", folder, num_train=4))
    assert first.digest() != before.digest()
    assert first.test.digest() == before.test.digest()
    changed = images[5:].copy()
    changed[1, 27, 27] ^= 1
    write_idx(folder / "t10k-images-idx3-ubyte", changed)
    after = load_dataset(config("mnist", folder))
    assert after.digest() != before.digest()
    assert after.train.digest() == before.train.digest()
