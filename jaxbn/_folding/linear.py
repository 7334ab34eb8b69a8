# SPDX-License-Identifier: Apache-2.0
"""Linear operations that take an affine map into their kernel.

For `y = K z`, a map of the output gives `a (K z) + b = (a K) z + b`, and a map of the
input `K (a z + b) = (K a) z + K b`. Both give a new kernel and a shift of the output.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxbn._folding.graph import Operation, Value
from jaxbn._folding.maps import Array, Constants, Map

NAMES = ("conv_general_dilated", "dot_general")


@dataclasses.dataclass(eq=False, repr=False)
class Linear:
    """A convolution or a product of a moving value with a kernel of params."""

    operation: Operation
    constants: Constants
    shift: Array  # of the output, with the output's rank
    changed: Array | None = None  # the new kernel
    # That of the arithmetic between kernel and last shift.
    shift_dtype: np.dtype = dataclasses.field(default=np.dtype(np.float32))
    is_shifted: bool = False
    shift_leaves: list[str] = dataclasses.field(default_factory=list)
    is_followed: bool = False  # by maps that are part of it now

    @property
    def kernel(self) -> Array:
        """The kernel in double precision, changed or as it is in the params."""
        if self.changed is None:
            return self.constants.full(self.kernel_value)
        return self.changed

    @property
    def kernel_index(self) -> int:
        """Which operand the kernel is."""
        return 0 if self.operation.operands[1].moves else 1

    @property
    def kernel_value(self) -> Value:
        """The kernel, as traced."""
        return self.operation.operands[self.kernel_index]

    @property
    def dtype(self) -> np.dtype:
        """That of the kernel."""
        return self.kernel_value.aval.dtype

    @property
    def _rank(self) -> int:
        return len(self.kernel_value.aval.shape)

    @property
    def is_convolution(self) -> bool:
        """Whether it is one, and no product."""
        return self.operation.name == "conv_general_dilated"

    @property
    def output_axes(self) -> tuple[int, ...]:
        """The axes of the output that are axes of the kernel: the features."""
        if self.is_convolution:
            return (self.operation.params["dimension_numbers"].out_spec[1],)
        return tuple(self._output_axis(axis) for axis in self._kept)

    @property
    def input_axes(self) -> tuple[int, ...]:
        """The axes of the moving operand that are axes of the kernel."""
        if self.is_convolution:
            return (self.operation.params["dimension_numbers"].lhs_spec[1],)
        contracting, batch = self._dimensions(1 - self.kernel_index)
        return (*batch, *contracting)

    @property
    def feature_axes(self) -> tuple[int, ...]:
        """The axes of the kernel that are axes of the output."""
        if self.is_convolution:
            return (self.operation.params["dimension_numbers"].rhs_spec[0],)
        return self._kept

    @property
    def zeros_in_input(self) -> str | None:
        """Why the convolution sees zeros that no map of its input has shifted."""
        params = self.operation.params
        if not self.is_convolution:
            return None
        if any(size > 0 for pair in params["padding"] for size in pair):
            return "pads its input with zeros, which have no shift"
        if any(step != 1 for step in params["lhs_dilation"]):
            return "puts zeros between its inputs, which have no shift"
        return None

    def after(self, after: Map) -> tuple[Array, Array]:
        """Kernel and shift with a map of the output, which depends on features only."""
        shift = after.scale * self.shift + after.shift
        if self.is_convolution:
            (out,) = self.feature_axes
            shape = [1] * self._rank
            shape[out] = after.scale.size
            return self.kernel * after.scale.reshape(shape), shift
        order = self.output_axes
        others = [a for a in range(after.scale.ndim) if a not in order]
        scale = np.transpose(after.scale, [*order, *others])
        scale = scale.reshape(scale.shape[: len(order)])
        return self.kernel * np.expand_dims(scale, self._contracted), shift

    def before(self, before: Map) -> tuple[Array, Array]:
        """Kernel and shift with a map of the input, which depends on features only."""
        if self.is_convolution:
            return self._before_convolution(before)
        rank = len(self.operation.results[0].aval.shape)
        moving = self._dimensions(1 - self.kernel_index)
        own = self._dimensions(self.kernel_index)
        pairs = [
            p for m, k in zip(moving, own, strict=True) for p in zip(m, k, strict=True)
        ]
        scale, shift = (self._along(x, pairs) for x in before)
        total = np.sum(self.kernel * shift, axis=self._contracted)
        total = np.transpose(total, np.argsort(self.output_axes))
        others = [a for a in range(rank) if a not in self.output_axes]
        return self.kernel * scale, self.shift + np.expand_dims(total, others)

    def _before_convolution(self, before: Map) -> tuple[Array, Array]:
        params = self.operation.params
        numbers, groups = params["dimension_numbers"], params["feature_group_count"]
        out, within = numbers.rhs_spec[:2]
        kernel = np.moveaxis(self.kernel, (out, within), (0, 1))
        features, size = kernel.shape[:2]
        rows = []
        for x in before:
            # Output features of one group are adjacent, and so are its input features.
            x = np.broadcast_to(x.reshape(-1), (groups * size,)).reshape(groups, size)
            x = np.repeat(x, features // groups, axis=0)
            rows.append(np.expand_dims(x, tuple(range(2, kernel.ndim))))
        scale, shift = rows
        total = np.sum(kernel * shift, axis=tuple(range(1, kernel.ndim)))
        shape = [1] * len(numbers.out_spec)
        shape[numbers.out_spec[1]] = features
        scaled = np.moveaxis(kernel * scale, (0, 1), (out, within))
        return scaled, self.shift + total.reshape(shape)

    def _along(self, x: Array, pairs: list[tuple[int, int]]) -> Array:
        """Lays the axes of the moving operand along those of the kernel."""
        shape = [1] * self._rank
        order = sorted(pairs, key=lambda pair: pair[1])
        for moving, own in order:
            shape[own] = x.shape[moving]
        others = [a for a in range(x.ndim) if a not in dict(pairs)]
        return np.transpose(x, [*(m for m, _ in order), *others]).reshape(shape)

    def _dimensions(self, index: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The contracting and the batch axes of an operand."""
        contracting, batch = self.operation.params["dimension_numbers"]
        return tuple(contracting[index]), tuple(batch[index])

    @property
    def _contracted(self) -> tuple[int, ...]:
        return self._dimensions(self.kernel_index)[0]

    @property
    def _kept(self) -> tuple[int, ...]:
        """The axes of the kernel that are in the output."""
        return tuple(a for a in range(self._rank) if a not in self._contracted)

    def _output_axis(self, axis: int) -> int:
        """Where a kept axis of the kernel is in the output: batch, left, right."""
        _, batch = self._dimensions(self.kernel_index)
        if axis in batch:
            return batch.index(axis)
        free = [a for a in self._kept if a not in batch]
        ahead = 0
        if self.kernel_index == 1:
            left = len(self.operation.operands[0].aval.shape)
            ahead = left - sum(len(d) for d in self._dimensions(0))
        return len(batch) + ahead + free.index(axis)


def linear(operation: Operation, constants: Constants) -> Linear | None:
    """The operation as a linear one, or None if it is not."""
    if operation.name not in NAMES:
        return None
    left, right = operation.operands
    if left.moves == right.moves or (operation.name == NAMES[0] and right.moves):
        return None
    if operation.params.get("batch_group_count", 1) != 1:  # of derivatives
        return None
    kernel = left if right.moves else right
    if not kernel.is_known or not jnp.issubdtype(kernel.aval.dtype, jnp.inexact):
        return None
    rank = len(operation.results[0].aval.shape)
    return Linear(operation, constants, np.zeros((1,) * rank))
