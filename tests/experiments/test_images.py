# SPDX-License-Identifier: Apache-2.0
"""Images of all kinds become the right 8-bit values, upright, or are refused."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from experiments.data import load_dataset
from experiments.data.images import decoded, open_image
from experiments.errors import UserError
from tests.experiments.commands import run
from tests.experiments.readers import config, error_of, refusal, refused_line, training

SIZE = 56
"""Of a test image of 64 pixels that is evaluated, the middle without any scaling."""
COLORS = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
EXIF_ORIENTATION = 0x0112


def stored(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def folder_of(content, root, suffix="png"):
    """A data set of four copies of a file."""
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            (root / part / name / f"0.{suffix}").write_bytes(content)
    return root


@pytest.fixture
def read(tmp_path):
    """Reads a file as a data set has it: its bytes in the middle, and the notes."""

    def call(content, suffix="png"):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        folder = folder_of(content, root, suffix)
        data = load_dataset(config("image_folder", folder, image_size=SIZE))
        image, _ = data.test.load(1, None)
        first = folder / "train" / "cat" / f"0.{suffix}"
        end = f": 4 of the 4 images inspected, the first `{first}`."
        assert all(note.endswith(end) for note in data.notes)
        rules = [note.removesuffix(end) for note in data.notes]
        return np.rint(image * 255).astype(np.uint8), rules

    return call


@pytest.fixture
def refused(tmp_path):
    """Returns why a file is refused, by the reader and by the real command."""

    def call(content):
        folder = folder_of(content, tmp_path / "data")
        line = refused_line("image_folder", folder, tmp_path / "run")
        name = f"`{folder / 'train' / 'cat' / '0.png'}`"
        found = refusal("image_folder", folder, image_size=SIZE)
        assert line == f"error: {found}" and found.startswith(f"{name} ")
        return found.removeprefix(f"{name} ")

    return call


def middle(pixels):
    return np.asarray(pixels)[4:60, 4:60]


FIRST = "Of several images in a file, such as an animation, the first is read"
NO_ALPHA = "Alpha is dropped, and the colors behind it stay"
EIGHT_BITS = "16 bits per channel become 8"


@pytest.mark.parametrize("kind", ["png", "bmp", "ppm"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_lossless_formats_give_what_was_stored(mode, kind, read):
    image = Image.fromarray(COLORS).convert(mode)
    pixels, rules = read(stored(image, kind))
    np.testing.assert_array_equal(pixels, middle(image.convert("RGB")))
    assert rules == []


def test_a_format_is_known_by_the_content_not_by_the_name(read):
    image = Image.fromarray(COLORS)
    pixels, _ = read(stored(image, "webp", lossless=True), "jpg")
    np.testing.assert_array_equal(pixels, middle(image))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped_and_the_colors_behind_it_stay(mode, read):
    image = Image.fromarray(COLORS).convert(mode)
    expected = middle(image.convert("RGB"))
    image.putalpha(Image.fromarray(COLORS[..., 0]))
    pixels, rules = read(stored(image))
    np.testing.assert_array_equal(pixels, expected)
    assert rules == [NO_ALPHA]


@pytest.mark.parametrize("clear", [None, 3, bytes(range(0, 160, 10))])
def test_palettes_with_and_without_transparent_colors(clear, read):
    image = Image.fromarray(COLORS).quantize(16)
    options = {} if clear is None else {"transparency": clear}
    pixels, rules = read(stored(image, **options))
    np.testing.assert_array_equal(pixels, middle(image.convert("RGB")))
    assert rules == ([] if clear is None else [NO_ALPHA])


def test_cmyk_as_adobe_stores_it(read):
    """Inverted, which Pillow undoes: white paper is white."""
    for color in ((255, 255, 255), (255, 0, 0), (0, 0, 0)):
        image = Image.new("RGB", (64, 64), color).convert("CMYK")
        pixels, _ = read(stored(image, "jpeg", quality=100))
        assert np.abs(pixels.astype(int) - color).max() <= 2


@pytest.mark.parametrize("kind", ["png", "ppm"])
def test_16_bit_grey_is_scaled_not_clipped(kind, read):
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    deep[8, 8:12] = [128, 129, 65407, 65535]  # on both sides of a half
    pixels, rules = read(stored(Image.fromarray(deep), kind))
    expected = np.rint(middle(deep) / 257).astype(np.uint8)
    assert expected[4, 4:8].tolist() == [0, 1, 255, 255]
    np.testing.assert_array_equal(pixels, np.stack([expected] * 3, -1))
    assert rules == [EIGHT_BITS]


def png(width, height, depth, color, data):
    """A PNG of any header."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_of_16_bit_colors_the_upper_8_bits_are_read(color, channels, rng, read):
    deep = rng.integers(0, 2**16, (64, 64, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    upper = middle(deep >> 8).astype(np.uint8)
    expected = upper[..., :3] if channels > 2 else upper[..., [0, 0, 0]]
    pixels, rules = read(png(64, 64, 16, color, rows))
    np.testing.assert_array_equal(pixels, expected)
    assert rules == [EIGHT_BITS] if color == 2 else [NO_ALPHA, EIGHT_BITS]


@pytest.mark.parametrize("most", [100, 1023, 65535])
def test_colors_of_a_ppm_with_any_largest_value(most, rng, read):
    values = rng.integers(0, most + 1, (64, 64, 3))
    dtype = np.uint8 if most < 256 else ">u2"
    pixels, rules = read(b"P6\n64 64\n%d\n" % most + values.astype(dtype).tobytes())
    assert np.abs(pixels.astype(int) - middle(values) / most * 255).max() <= 1
    assert rules == ([EIGHT_BITS] if most > 255 else [])


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_less_than_8_bits_are_scaled(depth, read):
    row = b"\0" + b"\xff" * (4 * depth) + bytes(4 * depth)  # white, then black
    pixels, rules = read(png(64, 64, depth, 0, row * 64))
    assert np.all(pixels[:, :28] == 255) and not pixels[:, 28:].any() and rules == []


def test_floats_are_refused(refused):
    values = Image.fromarray(np.ones((4, 5), np.float32))
    assert refused(stored(values, "ppm")) == (
        "must have 8 or 16 bits per channel, got Pillow's mode F, of 32 bits; save it "
        "with 8."
    )


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_stands_upright(orientation, kind, read):
    """As the camera was held."""
    upright = Image.fromarray(COLORS[:4, :4]).resize((64, 64))
    marked = upright.copy()
    marked.getexif()[EXIF_ORIENTATION] = {6: 8, 8: 6}.get(orientation, orientation)
    turned = ImageOps.exif_transpose(marked)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    options = {"jpeg": {"quality": 100}, "webp": {"lossless": True}, "png": {}}[kind]
    pixels, rules = read(stored(turned, kind, exif=exif, **options))
    most = 2 if kind == "jpeg" else 0  # which is not exact
    assert np.abs(pixels.astype(int) - middle(upright)).mean() <= most and rules == []


CUT = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40
NO_TIFF = b"Exif\0\0no TIFF"


@pytest.mark.parametrize("exif", [CUT, NO_TIFF], ids=["cut", "no TIFF"])
def test_damaged_exif_data_are_ignored(exif, tmp_path):
    """By a process of its own, in which Pillow's warnings are printed."""
    content = stored(Image.fromarray(COLORS), exif=exif)
    folder = folder_of(content, tmp_path / "data")
    result = run(*training("image_folder", folder, tmp_path / "run"))
    assert result.returncode == 0 and not result.stderr, result.stderr


def test_orientation_is_read_where_other_exif_data_are_damaged(read):
    """`exif_transpose` fails to write these back."""
    entry = struct.pack(">HHII", EXIF_ORIENTATION, 3, 1, 3 << 16)
    wrong = struct.pack(">HHII", 0x9C9B, 1, 2, 0)  # bytes where text is meant
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entry + wrong + bytes(4)
    pixels, _ = read(stored(Image.fromarray(COLORS), exif=exif))
    np.testing.assert_array_equal(pixels, middle(COLORS[::-1, ::-1]))


@pytest.mark.parametrize("kind", ["png", "webp", "mpo"])
def test_of_several_images_the_first_is_read(kind, read):
    """MPO is how phones store two JPEG images in a file."""
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    options = {"lossless": True} if kind == "webp" else {}
    pixels, rules = read(
        stored(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    )
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 2 and rules == [FIRST]


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side, refused):
    """Pillow only warns of the first, and neither has its pixels."""
    assert refused(png(side, side, 8, 2, b"")) == (
        f"must have at most 134217728 pixels, got {side} x {side}."
    )


NO_IMAGE = "must be an image of the formats JPEG, PNG, BMP, WEBP, PPM."
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def test_an_eps_reaches_no_program(tmp_path, monkeypatch, refused):
    """Pillow gives EPS to Ghostscript, whatever the file is named."""
    place = tmp_path / "bin"
    place.mkdir()
    program, mark = place / "gs", tmp_path / "ran"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(place), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # not looked for yet
    with pytest.raises(OSError), Image.open(io.BytesIO(EPS)) as image:
        image.load()
    assert mark.exists()  # so Pillow would run it
    mark.unlink()
    assert refused(EPS) == NO_IMAGE
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["gif", "tiff", "pdf", "ico", "tga", "text"])
def test_other_formats_are_refused(kind, tmp_path):
    image = Image.fromarray(COLORS)
    folder = folder_of(b"404" if kind == "text" else stored(image, kind), tmp_path)
    assert refusal("image_folder", folder, image_size=SIZE).endswith(NO_IMAGE)


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "webp", "ppm"])
def test_damaged_images_are_refused_or_read(kind):
    whole = stored(Image.fromarray(COLORS), kind)
    # The last 20 bytes of a PNG are checksums and its end.
    for length in range(0, len(whole) - 20, len(whole) // 40):
        cut = io.BytesIO(whole[:length])
        assert error_of(lambda cut=cut: decoded(cut, "`x`")).startswith("`x` ")
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        try:
            decoded(io.BytesIO(damaged), "`x`")
        except UserError as error:
            assert str(error).startswith("`x` ") and len(str(error).splitlines()) == 1


def test_too_little_memory_is_no_damage():
    class Full(io.BytesIO):
        def read(self, *arguments):
            raise MemoryError

    with pytest.raises(MemoryError):
        decoded(Full(), "`x`")


def make_loop(path):
    path.symlink_to(path)


SPECIAL = {
    "pipe": (os.mkfifo, "must be a regular file."),
    "folder": (os.mkdir, "must be a regular file."),
    "device": (lambda path: path.symlink_to("/dev/zero"), "must be a regular file."),
    "loop": (make_loop, "cannot be read: "),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_not_opened(kind, tmp_path):
    """Folders of images leave such out; `predict` is given them."""
    make, expected = SPECIAL[kind]
    path = tmp_path / "x.png"
    make(path)
    text = error_of(lambda: open_image(path))
    assert text.startswith(f"`{path}` {expected}")
