# SPDX-License-Identifier: Apache-2.0
"""The options of a call as users give them, one record for each thing they decide.

The names are those of the arguments of the public functions, which say what they mean.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbn._core.affine import Activation


class BatchSettings(NamedTuple):
    """How a batch is cut and normalized."""

    axis: int | Sequence[int] = -1
    epsilon: float | Float[Array, ""] = 1e-5
    virtual_batch_size: int | None = None
    num_segments: int | None = None
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Sequence[Sequence[int]] | None = None
    activation: Activation | None = None
    dtype: DTypeLike | None = None

    @property
    def without_statistics(self) -> "BatchSettings":
        """Where the batch's statistics are not needed: no axis has to be bound."""
        return self._replace(
            virtual_batch_size=None, axis_name=None, axis_index_groups=None
        )


class UpdateSettings(NamedTuple):
    """How running statistics take up the moments of a batch."""

    momentum: float | Float[Array, ""] | None = 0.99
    unbiased: bool = False
    debias: bool = False


class RenormSettings(NamedTuple):
    """How far batch renorm corrects a batch at most."""

    max_scale: float | Float[Array, "..."] = 3.0
    max_shift: float | Float[Array, "..."] = 5.0
