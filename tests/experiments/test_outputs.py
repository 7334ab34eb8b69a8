# SPDX-License-Identifier: Apache-2.0
"""Places where nothing can be written: one line that names the place and the fix."""

import errno
import os
import resource
import shutil
import signal
import subprocess

import pytest
from PIL import Image

from tests.experiments.commands import one_line_error, run_here

COMMANDS = ("predict", "export", "diagnose", "report")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    command = ("train", "digits_dense", "--workdir", folder, "--train.num-steps", "10")
    assert run_here(*command).returncode == 0
    Image.new("L", (8, 8), 128).save(folder.parent / "image.png")
    return folder


def arguments(command, folder):
    more = {"predict": [folder.parent / "image.png"]}
    return [command, folder, *more.get(command, [])]


def write(command, folder, output):
    return run_here(*arguments(command, folder), "--output", output)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_is_no_file(tmp_path, folder, command):
    file = tmp_path / "file"
    file.write_text("kept")
    line = one_line_error(write(command, folder, file / "page"))
    assert line == (
        f"error: `--output` must be in a folder, got `{file}`, but `{file}` is a file; "
        "name another folder."
    )
    assert file.read_text() == "kept"
    for place in (tmp_path, ".", "/"):
        line = one_line_error(write(command, folder, place))
        assert line == (
            f"error: `--output` must be a file, got `{place}`, a folder; name a file "
            "in it."
        )
    line = one_line_error(write(command, folder, os.devnull))
    assert "got `/dev/null`, a device; name a file." in line
    line = one_line_error(write(command, folder, tmp_path / ("a" * 300)))
    assert line.endswith("File name too long; take a shorter name.")


@pytest.fixture
def small(tmp_path):
    """A file system of its own, 64 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user, or this machine, may not mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_or_read_only_disk(folder, small, command):
    (small / "filler").write_bytes(bytes(2**16))
    page = small / "page"
    line = one_line_error(write(command, folder, page))
    assert line == f"error: `{page}`: No space left on device; free some space."
    assert [path.name for path in small.iterdir()] == ["filler"]
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    line = one_line_error(write(command, folder, page))
    answer = f"error: `{small}` cannot be written; name another place with --output."
    assert line == answer
    line = one_line_error(write(command, folder, small / "new" / "page"))
    fix = "change its permissions, or name another place."
    assert line.endswith(f"Read-only file system; {fix}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_without_permission(tmp_path, folder, command):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    line = one_line_error(write(command, folder, closed / "page"))
    answer = f"error: `{closed}` cannot be written; name another place with --output."
    assert line == answer


def test_a_run_that_cannot_be_written(folder, small):
    """It is read all the same; what would be written there can be elsewhere."""
    copy = small.parent / "copy"
    shutil.copytree(folder, copy)
    subprocess.run(["mount", "--bind", str(copy), str(small)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(small)], check=True)
        assert run_here("evaluate", small).returncode == 0
        for command in ("predict", "export", "diagnose"):
            line = one_line_error(
                run_here(
                    *arguments(command, small)[:2],
                    *([folder.parent / "image.png"] if command == "predict" else []),
                )
            )
            assert "cannot be written; name another place with --output" in line
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_limit_on_the_size_of_files(tmp_path, folder):
    """Nothing is left of what was begun."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        result = write("export", folder, tmp_path / "weights")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    line = one_line_error(result)
    assert os.strerror(errno.EFBIG) in line and line.endswith("; free some space.")
    assert not list(tmp_path.iterdir())
