# SPDX-License-Identifier: Apache-2.0
"""Variables of Linen models as those of NNX models, and back."""

from jaxbn._flax.conversion import from_linen, to_linen

__all__ = ["from_linen", "to_linen"]
