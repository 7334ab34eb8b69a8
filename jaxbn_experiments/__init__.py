# SPDX-License-Identifier: Apache-2.0
"""The program `jaxbn-experiments`, which runs the laboratory from any folder.

The laboratory is the package `experiments`. In a wheel it lies within this one, for a
package of that name in site-packages would hide users' own folders `experiments`.
"""

import runpy
import sys
from pathlib import Path

OWN = ("experiments", "jaxbn", "jaxbn_experiments")


def main() -> None:
    """Runs the command line as `python -m experiments` does in a checkout."""
    here = Path(__file__).parent
    root = here if (here / "experiments").is_dir() else here.parent
    sys.path.insert(0, str(root))
    try:
        runpy.run_module("experiments", run_name="__main__")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OWN:
            raise
        print(
            f"error: this program needs `{error.name}`, which is not installed: "
            "pip install 'jaxbn[experiments]'.",
            file=sys.stderr,
        )
        sys.exit(2)
