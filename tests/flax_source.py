# SPDX-License-Identifier: Apache-2.0
"""The source of the Flax that is installed: its own tests and its ImageNet example.

Flax's wheels leave both out; its source distributions have them.
"""

import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

# The last has the warnings that Flax's tests ignore.
KEPT = ("tests/", "examples/imagenet/", "pyproject.toml")


def folder() -> Path:
    """Returns the folder, which pip fills once for each environment.

    Raises:
        OSError: pip cannot get it.
    """
    release = f"flax-{metadata.version('flax')}"
    target = Path(sys.prefix) / "share" / release
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=sys.prefix) as name:
        scratch = Path(name)
        command = [sys.executable, "-m", "pip", "download", release.replace("-", "==")]
        command += ["--no-deps", "--no-binary", "flax", "--dest", name, "--quiet"]
        command += ["--disable-pip-version-check"]
        answer = subprocess.run(command, capture_output=True, text=True)
        archives = list(scratch.glob("*.tar.gz"))
        if answer.returncode or not archives:
            says = answer.stderr.strip().splitlines() or ["pip says nothing"]
            raise OSError(f"The source of {release} cannot be downloaded: {says[-1]}")
        with tarfile.open(archives[0]) as archive:
            beginnings = tuple(f"{release}/{kept}" for kept in KEPT)
            members = [m for m in archive if m.name.startswith(beginnings)]
            archive.extractall(scratch, members, filter="data")
        target.parent.mkdir(exist_ok=True)
        (scratch / release).rename(target)
    return target
