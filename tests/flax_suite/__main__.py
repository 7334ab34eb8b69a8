# SPDX-License-Identifier: Apache-2.0
"""Runs Flax's own tests of batch norm on Flax and with jaxbn in its place."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests import flax_source
from tests.flax_suite.differences import DIFFERENCES
from tests.flax_suite.source import files_with_batch_norm
from tests.flax_suite.verdict import compare

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    # As Flax's own CI runs its tests.
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    # Compiling is most of the time: what was compiled serves the next run.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def run(root: Path) -> dict[str, dict[str, str]]:
    """The outcomes on Flax and with jaxbn, by test; the two run at the same time.

    Raises:
        RuntimeError: pytest did not reach its end.
    """
    running = {}
    for norm in ("flax", "jaxbn"):
        outcomes, log = root / f"{norm}.json", root / f"{norm}.log"
        cache = {"JAX_COMPILATION_CACHE_DIR": str(root / f"{norm}-xla")}
        outcomes.unlink(missing_ok=True)
        options = [f"--norm={norm}", f"--outcomes={outcomes}"]
        options += ["--continue-on-collection-errors"]
        command = [sys.executable, "-m", "pytest", "-p", "tests.flax_suite.plugin"]
        with log.open("w") as output:
            running[norm] = subprocess.Popen(
                [*command, *options, *files_with_batch_norm(root)],
                cwd=root,
                env=os.environ | ENVIRONMENT | cache,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
    for norm, process in running.items():
        process.wait()
        if not (root / f"{norm}.json").exists():
            raise RuntimeError(f"pytest did not reach its end, see {root}/{norm}.log")
    return {norm: json.loads((root / f"{norm}.json").read_text()) for norm in running}


def main() -> int:
    """Returns 1 where jaxbn differs from Flax and the list does not have it."""
    begin = time.monotonic()
    try:
        root = flax_source.folder()
    except OSError as error:
        print(error)
        return 1
    print(f"Running the tests of {root.name} that use batch norm", flush=True)
    verdict = compare(**run(root), differences=DIFFERENCES)
    print(*verdict.lines(), f"{time.monotonic() - begin:.0f} seconds", sep="\n")
    return 1 if verdict.wrong or not verdict.passed else 0


if __name__ == "__main__":
    sys.exit(main())
