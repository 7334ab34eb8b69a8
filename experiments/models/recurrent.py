# SPDX-License-Identifier: Apache-2.0
"""Recurrent networks that read an image row by row.

The norm is around the cell, on its input and on the last state (Laurent et al. 2016,
https://arxiv.org/abs/1510.01378), or within the cell, with statistics for each step or
for all (Cooijmans et al. 2017, https://arxiv.org/abs/1603.09025, section 3).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from experiments.models.network import Images, Mask, Network
from experiments.models.norms import Norm


class Recurrent(Network):
    """A dense layer and norm for each row, a cell over the rows, norm, logits."""

    cell: Callable[..., nn.RNNCellBase] = nn.GRUCell
    hidden: int = 64

    def features(self, x: Images, train: bool, mask: Mask) -> Float[Array, "b f"]:
        """Returns the input of the last layer."""
        norm = functools.partial(self.norm, use_running_average=not train, mask=mask)
        x = x.reshape(*x.shape[:2], -1)
        x = norm()(nn.Dense(self.hidden, dtype=self.dtype)(x))
        cell = self.cell(self.hidden, dtype=self.dtype)
        zeros = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
        start = jax.tree.map(functools.partial(_zeros, x), zeros)
        states: Any = nn.RNN(cell)(x, initial_carry=start)
        return norm()(states[:, -1])


class NormedCell(nn.Module):
    """A step of a GRU: reset and update gates, candidate state, all after norms."""

    norm: Norm
    hidden: int
    dtype: DTypeLike | None
    train: bool

    @nn.compact
    def __call__(
        self,
        state: Float[Array, "b s"],
        row: Float[Array, "b c"],
        mask: Mask,
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


class StepGRU(Network):
    """The cell over the rows of an image, and logits of the last state."""

    hidden: int = 32
    step_statistics: bool = True

    def features(self, x: Images, train: bool, mask: Mask) -> Float[Array, "b f"]:
        """Returns the input of the last layer."""
        rows = x.reshape(*x.shape[:2], -1)
        state = _zeros(rows, jnp.zeros((len(rows), self.hidden), rows.dtype))
        fields = (self.norm, self.hidden, self.dtype, train)
        if self.step_statistics:
            cell = nn.scan(
                NormedCell,
                variable_axes={"batch_stats": 0},
                variable_broadcast="params",
                split_rngs={"params": False, "dropout": True},
                in_axes=(1, nn.broadcast),  # pyright: ignore[reportArgumentType]
            )
            state, _ = cell(*fields)(state, rows, mask)
        else:  # one cell, whose statistics each step updates
            cell = NormedCell(*fields)
            for number in range(rows.shape[1]):
                state, _ = cell(state, rows[:, number], mask)
        return state


def _zeros(x: Array, like: Array) -> Array:
    """Returns zeros that vary over the same mapped axes as `x`, as scans require."""
    return jnp.zeros_like(x, shape=like.shape, dtype=like.dtype)
