# SPDX-License-Identifier: Apache-2.0
"""Batch normalization for JAX whose numbers you can trust.

The pure functions are here and need only JAX; the Flax modules are in `jaxbn.linen` and
`jaxbn.nnx`, which are imported when first used, as are the tools.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from jaxbn._core.types import Moments as Moments
from jaxbn._core.types import RunningStats as RunningStats
from jaxbn._functions.batch_norm import batch_norm as batch_norm
from jaxbn._functions.batch_norm import batch_renorm as batch_renorm
from jaxbn._functions.moments import compute_moments as compute_moments
from jaxbn._functions.moments import merge_moments as merge_moments
from jaxbn._functions.normalize import normalize as normalize
from jaxbn._functions.recomputation import save_inputs as save_inputs
from jaxbn._functions.running_stats import init_running_stats as init_running_stats
from jaxbn._functions.running_stats import update_running_stats as update_running_stats

if TYPE_CHECKING:
    from jaxbn import conversion as conversion
    from jaxbn import convert as convert
    from jaxbn import folding as folding
    from jaxbn import linen as linen
    from jaxbn import nnx as nnx
    from jaxbn import population as population

__version__ = "0.2.0"

_ON_FIRST_USE = ("conversion", "convert", "folding", "linen", "nnx", "population")


def __getattr__(name: str) -> ModuleType:
    """Imports the other modules when they are first used (PEP 562)."""
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"jaxbn.{name}")
    raise AttributeError(f"module 'jaxbn' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, those of the modules that are not imported yet too."""
    public = [name for name in globals() if not name.startswith("_")]
    return sorted(
        {*public, *_ON_FIRST_USE} - {"importlib", "ModuleType", "TYPE_CHECKING"}
    )
