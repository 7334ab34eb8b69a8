# SPDX-License-Identifier: Apache-2.0
"""The old names of functions of `jaxbn.convert`; they warn."""

from jaxbn._convert.old_names import from_linen, to_linen

__all__ = ["from_linen", "to_linen"]
