# SPDX-License-Identifier: Apache-2.0
"""Images of strangers: predicted as the test set is, on a page of one file."""

import re

import numpy as np
import pytest
from PIL import Image

from experiments.data import digits
from experiments.train import saved
from experiments.train.prediction import find_mistakes
from tests.experiments.commands import one_line_error, run_here
from tests.experiments.test_evaluate import SHORT, trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("predict") / "run")


def picture_of(pixels):
    return Image.fromarray((pixels[..., 0] * 255).round().astype(np.uint8))


def predictions(page):
    """File and class of each image on a page."""
    classes = re.findall(r'<span class="class">(.*?)</span>', page)
    return dict(zip(re.findall(r'alt="(.*?)"><img', page), classes, strict=True))


def test_the_accuracy_over_files_is_that_of_the_test_set(tmp_path, folder):
    test = digits.load().test
    for number, pixels in enumerate(test.image):
        picture_of(pixels).save(tmp_path / f"{number:03}.png")
    result = run_here(
        "predict", folder, tmp_path, "--output", tmp_path / "p" / "a.html"
    )
    assert result.returncode == 0, result.stderr
    found = predictions((tmp_path / "p" / "a.html").read_text())
    files = [str(tmp_path / f"{number:03}.png") for number in range(len(test))]
    right = sum(
        found[file] == str(k) for file, k in zip(files, test.label, strict=True)
    )
    run = saved.load(folder)
    assert right == np.trace(find_mistakes(run, test, lambda done: None).table)


def test_the_page_is_one_file_and_names_are_text(tmp_path, folder):
    names = ["[red]a.png", "<b>&.png", "line\nbreak.png"]
    for name in names:
        picture_of(digits.load().test.image[0]).resize((50, 20)).convert("RGBA").save(
            tmp_path / name
        )
    result = run_here("predict", folder, tmp_path, tmp_path / names[0], "--top", "3")
    assert result.returncode == 0, result.stderr
    page = (folder / "predictions.html").read_text()
    assert len(predictions(page)) == 3  # the file that is given twice is shown once
    assert "&lt;b&gt;&amp;.png" in page and "<b>" not in page
    assert set(re.findall(r'(?:src|href)="(.{22})', page)) == {"data:image/png;base64,"}
    cells = [line.split("│")[1].strip() for line in result.stdout.splitlines()[3:-3]]
    assert "[red]a" in "".join(cells) and r"line\nbreak" in "".join(cells)


def test_the_others_are_predicted(tmp_path, folder):
    picture_of(digits.load().test.image[0]).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    result = run_here("predict", folder, tmp_path)
    line = one_line_error(result)
    rows = [row.split("│") for row in result.stdout.splitlines() if row[:1] == "│"]
    files = "".join(cells[1].strip() for cells in rows)  # a long path is cut
    assert f"`{tmp_path / 'broken.png'}`" in line and "good.png" in files
    (tmp_path / "good.png").unlink()
    page = tmp_path / "page.html"
    result = run_here("predict", folder, tmp_path, "--output", page)
    one_line_error(result)
    assert not page.exists()


def test_neither_data_nor_devices_are_needed(tmp_path, rng):
    """A run on a folder of images, which is gone, is applied to another image."""
    data = tmp_path / "data"
    for part in ("train", "val"):
        for label, name in enumerate(("cat", "[dog]")):
            (data / part / name).mkdir(parents=True)
            for number in range(8):
                noise = rng.integers(0, 100, (20, 30, 3)) + 155 * label
                image = Image.fromarray(noise.astype(np.uint8))
                image.save(data / part / name / f"{number}.png")
    folder = tmp_path / "run"
    result = run_here(
        "train", "configs/digits_dense.py", "--workdir", folder, *SHORT,
        "--data.name", "image_folder", "--data.path", data, "--data.image-size", "8",
        "--data.batch-size", "8", "--parallel.num-devices", "4",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    moved = tmp_path / "moved"
    data.rename(moved)
    image = moved / "val" / "[dog]" / "0.png"
    result = run_here("predict", folder, image)
    assert result.returncode == 0, result.stderr
    page = (folder / "predictions.html").read_text()
    assert predictions(page) == {str(image): "[dog]"}
    assert "does not" in one_line_error(run_here("evaluate", folder))
    result = run_here("evaluate", folder, "--data.path", moved)
    assert result.returncode == 0 and "100.00%" in result.stdout, result
    (moved / "train" / "cat").rename(moved / "train" / "bird")
    (moved / "val" / "cat").rename(moved / "val" / "bird")
    line = one_line_error(run_here("evaluate", folder, "--data.path", moved))
    assert "2 classes ([dog], cat) of 8x8x3, got 2 classes ([dog], bird)" in line


def test_mistakes(tmp_path, folder):
    line = one_line_error(run_here("predict", folder, tmp_path / "no.png"))
    assert line == f"error: `{tmp_path / 'no.png'}` is no image: it does not exist."
    line = one_line_error(run_here("predict", folder, tmp_path))
    assert line.startswith(f"error: `{tmp_path}` must have images (.bmp, ")
    line = one_line_error(run_here("predict", folder))
    assert line == "error: `predict` takes at least one image or folder of images."
    line = one_line_error(run_here("predict", tmp_path, folder / "config.json"))
    assert "is not the folder of a run" in line
    line = one_line_error(run_here("predict", folder, tmp_path, "--top", "0"))
    assert line == "error: `top` must be >= 1, got 0."
