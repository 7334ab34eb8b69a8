# SPDX-License-Identifier: Apache-2.0
"""A GRU with a norm within the cell, on the input's and on the state's part.

Batch norm there has statistics for each step, or one set for all (Cooijmans et al.
2017, https://arxiv.org/abs/1603.09025, section 3).
"""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from experiments.models.norms import Norm


class NormedCell(nn.Module):
    """One step: reset and update gates, candidate state, all after norms."""

    norm: Norm
    hidden: int
    dtype: DTypeLike | None
    train: bool

    @nn.compact
    def __call__(
        self,
        state: Float[Array, "b s"],
        row: Float[Array, "b c"],
        mask: Bool[Array, " b"] | None,
    ) -> tuple[Float[Array, "b s"], None]:
        """Returns the next state, and nothing for `nn.scan` to stack."""
        norm = functools.partial(
            self.norm, use_running_average=not self.train, mask=mask
        )
        weights = functools.partial(nn.Dense, 3 * self.hidden, dtype=self.dtype)
        of_row = norm()(weights()(row))
        of_state = norm()(weights(use_bias=False)(state))
        gates = nn.sigmoid(of_row + of_state)
        reset, update = jnp.split(gates[:, : 2 * self.hidden], 2, axis=1)
        new = of_row[:, 2 * self.hidden :] + reset * of_state[:, 2 * self.hidden :]
        return (1 - update) * nn.tanh(new) + update * state, None


class StepGRU(nn.Module):
    """The cell over the rows of an image, and logits of the last state."""

    norm: Norm
    num_classes: int
    dtype: DTypeLike | None = None
    hidden: int = 32
    step_statistics: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        train: bool,
        mask: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b k"]:
        """Returns the logits."""
        rows = x.reshape(*x.shape[:2], -1)
        state = jnp.zeros((len(rows), self.hidden), rows.dtype)
        fields = (self.norm, self.hidden, self.dtype, train)
        if self.step_statistics:
            cell = nn.scan(
                NormedCell,
                variable_axes={"batch_stats": 0},
                variable_broadcast="params",
                split_rngs={"params": False},
                in_axes=(1, nn.broadcast),  # pyright: ignore[reportArgumentType]
            )
            state, _ = cell(*fields)(state, rows, mask)
        else:  # one cell, whose statistics each step moves
            cell = NormedCell(*fields)
            for number in range(rows.shape[1]):
                state, _ = cell(state, rows[:, number], mask)
        return nn.Dense(self.num_classes, dtype=self.dtype)(state)
