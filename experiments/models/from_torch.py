# SPDX-License-Identifier: Apache-2.0
"""Variables of `ResNet` from the names that PyTorch's residual networks have."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from experiments.errors import UserError

NAMES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
IGNORED = "num_batches_tracked"


def from_torch(
    like: Mapping[str, Any], state_dict: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns Linen variables with the values of a `state_dict` of torchvision's names.

    Kernels go from (out, in, h, w) to (h, w, in, out), and from (out, in) to (in, out).
    PyTorch's running variance is the unbiased one; in inference both give the same.

    Args:
        like: the variables of the network, for their names and shapes.
        state_dict: arrays by name, such as `layer1.0.bn1.running_var`.

    Raises:
        UserError: a name is missing, unknown, or of another shape.
    """
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(dict(like)))
    wanted = {path: torch_name(path) for path in flat}
    held = {name for name in state_dict if not name.endswith(IGNORED)}
    missing = sorted(set(wanted.values()) - held)
    unknown = sorted(held - set(wanted.values()))
    if missing or unknown:
        raise UserError(
            f"the state_dict must be of this network; it lacks {missing or 'nothing'}, "
            f"and has beside it {unknown or 'nothing'}."
        )
    found = {}
    for path, name in wanted.items():
        value = np.asarray(state_dict[name])
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        elif value.ndim == 2:
            value = value.T
        expected = jnp.shape(flat[path])
        if value.shape != expected:
            raise UserError(
                f"`{name}` must have shape {expected} here, got {value.shape}; is the "
                "stem or the number of classes another?"
            )
        found[path] = jnp.asarray(value)
    return jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(found))


def torch_name(path: tuple[str, ...]) -> str:
    """Returns PyTorch's name: `params/layer1_0/bn1/scale` is `layer1.0.bn1.weight`."""
    collection, *modules, leaf = path
    renamed = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
    parts = [
        m.replace("_", ".") if m.startswith("layer") else renamed.get(m, m)
        for m in modules
    ]
    return ".".join([*parts, NAMES[collection, leaf]])
