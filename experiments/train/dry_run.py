# SPDX-License-Identifier: Apache-2.0
"""What a run will be, found out before its first step: layers, memory, first batch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from experiments.data import Batch


class Layer(NamedTuple):
    """A module that has parameters or statistics of its own, as it is called first."""

    path: str
    kind: str
    output: str  # dtype and shape
    num_params: int
    num_statistics: int


class DryRun(NamedTuple):
    """What a run will be."""

    num_train: int
    num_test: int
    layers: list[Layer]
    batch: Batch  # the next of this process, on the host
    memory: dict[str, int]
    """Bytes of a device: what the training step takes, and what it needs besides."""


def layers_of(
    model: nn.Module, variables: Mapping[str, Any], images: Any
) -> list[Layer]:
    """Returns the layers in the order of their calls; computes nothing.

    Args:
        model: the network.
        variables: its parameters and statistics.
        images: one batch, `(b, h, w, c)`; shape and dtype are enough.
    """
    layers: dict[str, Layer] = {}

    def note(
        call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        output = call(*args, **kwargs)
        module, arrays = context.module, jax.tree.leaves(output)
        path = "/".join(module.path)
        own = [_own(variables, kind, module.path) for kind in ("params", "batch_stats")]
        if any(own) and path not in layers and arrays:
            shape = ", ".join(map(str, arrays[-1].shape))
            text = f"{arrays[-1].dtype} ({shape})"
            layers[path] = Layer(path, type(module).__name__, text, *own)
        return output

    def forward(variables: Any, images: Any) -> Any:
        with nn.intercept_methods(note):
            return model.apply(variables, images, train=False)

    jax.eval_shape(forward, variables, images)
    return list(layers.values())


def _own(variables: Mapping[str, Any], kind: str, path: tuple[str, ...]) -> int:
    """Returns how many numbers of this kind a module has, without those below it."""
    held: Any = variables.get(kind, {})
    for name in path:
        held = held.get(name, {}) if isinstance(held, Mapping) else {}
    arrays = held.values() if isinstance(held, Mapping) else []
    return sum(int(np.size(a)) for a in arrays if not isinstance(a, Mapping))


def memory_of(compiled: Any, state: Any) -> dict[str, int]:
    """Returns the bytes that a compiled step needs on a device, by what they are for.

    Args:
        compiled: the step.
        state: a `TrainState` on the host.
    """
    sizes = {
        "parameters": state.params,
        "statistics": state.batch_stats,
        "optimizer": state.opt_state,
        "average": state.average,
    }
    found = {
        name: sum(leaf.nbytes for leaf in jax.tree.leaves(part))
        for name, part in sizes.items()
    }
    analysis = compiled.memory_analysis()
    if analysis is not None:  # some backends have none
        found["the step's temporary arrays"] = analysis.temp_size_in_bytes
    return {name: size for name, size in found.items() if size}
