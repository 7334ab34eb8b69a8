# SPDX-License-Identifier: Apache-2.0
"""Flax's examples, of the version that is installed.

They are part of Flax's source distribution, not of its wheel. The source is downloaded
once, by pip, into the folder of the environment.
"""

import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path


def folder(example: str) -> Path:
    """The folder of an example."""
    version = metadata.version("flax")
    source = Path(sys.prefix) / "share" / f"flax-{version}"
    if not source.exists():
        with tempfile.TemporaryDirectory(dir=sys.prefix) as scratch:
            options = ["--quiet", "--no-deps", "--no-binary", "flax", "--dest", scratch]
            command = [sys.executable, "-m", "pip", "download", *options]
            subprocess.run([*command, f"flax=={version}"], check=True)
            (archive,) = Path(scratch).glob("flax-*.tar.gz")
            with tarfile.open(archive) as files:
                files.extractall(scratch, filter="data")
            source.parent.mkdir(exist_ok=True)
            (Path(scratch) / source.name).rename(source)
    return source / "examples" / example
