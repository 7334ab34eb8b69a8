# SPDX-License-Identifier: Apache-2.0
"""Recurrent networks that read an image row by row, with a norm or without.

The norm is where it is known to help: on what enters the cell (Laurent et al. 2016,
https://arxiv.org/abs/1510.01378), over examples and rows, and on the last state.
"""

import functools
from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from experiments.models.norms import Norm


class Recurrent(nn.Module):
    """A linear layer and norm for each row, a cell over the rows, norm, logits."""

    norm: Norm
    num_classes: int
    cell: Callable[..., nn.RNNCellBase]
    dtype: DTypeLike | None = None
    hidden: int = 64

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        train: bool,
        mask: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b k"]:
        """Returns the logits."""
        norm = functools.partial(self.norm, use_running_average=not train, mask=mask)
        x = x.reshape(*x.shape[:2], -1)
        x = norm()(nn.Dense(self.hidden, dtype=self.dtype)(x))
        states: Any = nn.RNN(self.cell(self.hidden, dtype=self.dtype))(x)
        last = norm()(states[:, -1])
        return nn.Dense(self.num_classes, dtype=self.dtype)(last)


RECURRENT = {
    "gru": functools.partial(Recurrent, cell=nn.GRUCell),
    "lstm": functools.partial(Recurrent, cell=nn.OptimizedLSTMCell),
}
