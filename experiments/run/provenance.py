# SPDX-License-Identifier: Apache-2.0
"""Provenance: when, with what and on which machine numbers were measured."""

import datetime
import importlib.metadata
import os
import platform
from typing import Any

LIBRARIES = ("jaxbn", "jax", "jaxlib", "flax", "optax", "torch")


def provenance() -> dict[str, Any]:
    """Returns the date, the machine, its device, and the versions of what is installed.

    It fits into a JSON file; `in_words` makes a sentence of it.
    """
    import jax

    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()}-core {platform.machine()}",
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": versions,
    }


def in_words(found: dict[str, Any]) -> str:
    """Returns what `provenance` found as text, without a full stop."""
    versions = ", ".join(f"{name} {text}" for name, text in found["versions"].items())
    return (
        f"{found['date']}, {found['machine']}, {found['device']}, Python "
        f"{found['python']}, {versions}"
    )
