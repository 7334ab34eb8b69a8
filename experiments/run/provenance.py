# SPDX-License-Identifier: Apache-2.0
"""Provenance: when, with what and on which machine numbers were measured."""

import contextlib
import datetime
import hashlib
import importlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("jaxbn", "experiments")
LIBRARIES = ("jaxbn", "jax", "jaxlib", "flax", "optax", "torch")


def provenance() -> dict[str, Any]:
    """Returns the date, the machine, its device, and the versions of what is installed.

    It fits into a JSON file; `in_words` makes a sentence of it.
    """
    import jax

    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()}-core {platform.machine()}",
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Returns the versions of what is installed."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def code_digest() -> str:
    """Returns a digest of this program's source, in which versions may agree."""
    digest = hashlib.blake2b(digest_size=8)
    for package in PACKAGES:
        for folder in importlib.import_module(package).__path__:
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(str(path.relative_to(folder)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def in_words(found: dict[str, Any]) -> str:
    """Returns what `provenance` found as text, without a full stop."""
    versions = ", ".join(f"{name} {text}" for name, text in found["versions"].items())
    return (
        f"{found['date']}, {found['machine']}, {found['device']}, Python "
        f"{found['python']}, {versions}"
    )
