# SPDX-License-Identifier: Apache-2.0
"""Weights of other libraries' networks for Flax models, and back.

Linen's variables for NNX models too. For the settings of each library's batch norm,
see its function.
"""

from jaxbn._convert.equinox import from_equinox, to_equinox
from jaxbn._convert.files import load_weights, save_weights
from jaxbn._convert.haiku import from_haiku, to_haiku
from jaxbn._convert.keras import from_keras, to_keras
from jaxbn._convert.torch import from_torch, to_torch
from jaxbn._flax.conversion import from_linen, to_linen

__all__ = [
    "from_equinox",
    "from_haiku",
    "from_keras",
    "from_linen",
    "from_torch",
    "load_weights",
    "save_weights",
    "to_equinox",
    "to_haiku",
    "to_keras",
    "to_linen",
    "to_torch",
]
