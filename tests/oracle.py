# SPDX-License-Identifier: Apache-2.0
"""Batch norm in NumPy float64, forward and backward, written from the formulas.

Plain two-pass sums over exactly the values that count, in a matrix of values by
features. Next to each sum is the sum of the absolute values of its terms, from which
the tests take their tolerances.
"""

from typing import NamedTuple

import numpy as np

# The function, its slope, and the size of the terms that make up the slope.
ACTIVATIONS = {
    None: (lambda z: z, np.ones_like, np.ones_like),
    "relu": (
        lambda z: np.maximum(z, 0),
        lambda z: 1.0 * (z > 0),
        lambda z: 1.0 * (z > 0),
    ),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2, lambda z: 1 + np.tanh(z) ** 2),
}


class Forward(NamedTuple):
    """The output, of the shape of x, and the moments."""

    y: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    count: float | np.ndarray  # of each feature, where the mask differs between them


class Gradients(NamedTuple):
    """With respect to each input; or the sizes of the terms that were added up."""

    x: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    residual: np.ndarray


class Matrix(NamedTuple):
    """How x becomes a matrix of values by features, and back."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def fold(self, x):
        x = np.moveaxis(x, self.axes, range(-len(self.axes), 0))
        rows = int(np.prod(x.shape[: x.ndim - len(self.axes)]))
        return x.reshape(rows, int(np.prod(self.features)))

    def unfold(self, rows):
        kept = [s for a, s in enumerate(self.shape) if a not in self.axes]
        x = rows.reshape(*kept, *self.features)
        return np.moveaxis(x, range(-len(self.axes), 0), self.axes)

    @property
    def features(self):
        return tuple(self.shape[a] for a in self.axes)


def matrix(shape, axis):
    axes = (axis,) if isinstance(axis, int) else axis
    return Matrix(tuple(shape), tuple(sorted(a % len(shape) for a in axes)))


class BatchNorm:
    """One batch norm of one batch: `forward`, then `backward`."""

    def __init__(
        self,
        x,
        scale=None,
        bias=None,
        *,
        axis=-1,
        epsilon=1e-5,
        mask=None,
        residual=None,
        activation=None,
    ):
        x = np.asarray(x, np.float64)
        self.matrix = matrix(x.shape, axis)
        self.weights = self._weights(mask, x.shape)
        self.counts = self.weights != 0
        features = self.matrix.features
        size = int(np.prod(features))
        self.x = self._rows(x)
        self.scale = np.ones(size) if scale is None else self._flat(scale)
        self.bias = np.zeros(size) if bias is None else self._flat(bias)
        self.residual = 0 if residual is None else self._rows(residual)
        self.act, self.act_slope, self.act_size = ACTIVATIONS[activation]
        self.count = self.weights.sum(0)
        self.part = self.weights / np.where(self.count > 0, self.count, 1)
        # Relative to one of the values, so that float64 loses nothing at a large mean.
        first = self.x[np.argmax(self.counts, 0), np.arange(size)] if self.x.size else 0
        relative = np.where(self.counts, self.x - first, 0)
        shift = (self.part * relative).sum(0)
        self.mean = np.where(self.count > 0, first + shift, shift)
        self.centered = np.where(self.counts, relative - shift, 0)
        self.var = (self.part * self.centered**2).sum(0)
        with np.errstate(divide="ignore"):
            self.rho = np.where(self.var + epsilon > 0, (self.var + epsilon) ** -0.5, 0)
        # The error of the mean that is not a part of the deviation.
        self.mean_loss = 0.0
        self.z = self.scale * self.rho * self.centered + self.bias + self.residual

    def _flat(self, vector):
        return np.asarray(vector, np.float64).reshape(-1)

    def _rows(self, x):
        return np.where(self.counts, self.matrix.fold(np.asarray(x, np.float64)), 0)

    def _weights(self, mask, shape):
        mask = np.ones(()) if mask is None else np.asarray(mask)
        if not np.issubdtype(mask.dtype, np.floating):
            mask = mask != 0
        mask = mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))
        self.by_feature = any(mask.shape[a] > 1 for a in self.matrix.axes)
        return self.matrix.fold(np.broadcast_to(mask.astype(np.float64), shape))

    def forward(self):
        y = np.where(self.counts, self.act(self.z), 0)
        back = self.matrix.features
        return Forward(
            self.matrix.unfold(y),
            self.mean.reshape(back),
            self.var.reshape(back),
            self.count.reshape(back) if self.by_feature else self.count.max(initial=0),
        )

    def _spread(self):
        """The size of the terms of a centered value, whose mean is right to a part of
        the deviation."""
        return np.abs(self.centered) + np.sqrt(self.var) + self.mean_loss

    def output_sizes(self):
        """The sizes of the terms of z."""
        return self.matrix.unfold(self._sizes())

    def _sizes(self):
        sizes = np.abs(self.scale) * self.rho * self._spread() + np.abs(self.bias)
        return sizes + np.abs(self.residual)

    def near_kink(self, within=1e-5):
        """Whether rounding may decide on which side of 0 some z is."""
        return np.any(self.counts & (np.abs(self.z) <= within * self._sizes()))

    def backward(self, dy, dmean=0.0, dvar=0.0):
        """Returns the gradients and the sizes of their terms."""
        g = self._rows(dy) * self.act_slope(self.z)
        dmean, dvar = (np.ravel(np.asarray(d, np.float64)) for d in (dmean, dvar))
        gain = self.scale * self.rho
        pull_mean = dmean - gain * g.sum(0)
        pull_var = dvar - 0.5 * gain * self.rho**2 * (g * self.centered).sum(0)
        dx = gain * g + self.part * (pull_mean + 2 * self.centered * pull_var)
        size_g = np.abs(self._rows(dy)) * self.act_size(self.z)
        size_mean = np.abs(dmean) + np.abs(gain) * size_g.sum(0)
        size_sum = (size_g * self._spread()).sum(0)
        size_var = np.abs(dvar) + 0.5 * np.abs(gain) * self.rho**2 * size_sum
        size_dx = np.abs(gain) * size_g + self.part * (
            size_mean + 2 * self._spread() * size_var
        )
        gradients = (dx, self.rho * (g * self.centered).sum(0), g.sum(0), g)
        sizes = (size_dx, self.rho * size_sum, size_g.sum(0), size_g)
        return self._shaped(gradients), self._shaped(sizes)

    def _shaped(self, rows):
        dx, dscale, dbias, dresidual = rows
        back = self.matrix.features
        return Gradients(
            self.matrix.unfold(dx),
            dscale.reshape(back),
            dbias.reshape(back),
            self.matrix.unfold(dresidual),
        )


def numerical_dx(x, loss, step=1e-5):
    """The gradient of `loss(x)` by central differences, to check the oracle itself."""
    x = np.asarray(x, np.float64)
    dx = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        dx[index] = (loss(up) - loss(down)) / (2 * step)
    return dx
