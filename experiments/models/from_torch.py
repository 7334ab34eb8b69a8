# SPDX-License-Identifier: Apache-2.0
"""Variables of `ResNet` from a `state_dict` of torchvision's residual networks."""

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
    """Returns Linen variables with the values of a `state_dict` of torchvision.

    Kernels go from (out, in, h, w) to (h, w, in, out), and from (out, in) to (in, out).
    The running variance is copied: inference uses it the same way, although PyTorch
    makes it from unbiased variances.

    Args:
        like: the variables of the network, for their names and shapes.
        state_dict: arrays by name, such as `layer1.0.bn1.running_var`.

    Raises:
        UserError: a name is missing or unknown, or an array has another shape.
    """
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(dict(like)))
    wanted = {path: torch_name(path) for path in flat}
    given = {name for name in state_dict if not name.endswith(IGNORED)}
    missing = sorted(set(wanted.values()) - given)
    unknown = sorted(given - set(wanted.values()))
    if missing or unknown:
        raise UserError(
            f"`state_dict` must be of this network, but {missing or 'nothing'} is "
            f"missing and {unknown or 'nothing'} is unknown."
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
                f"`{name}` must have shape {expected} here, got {value.shape}; check "
                "the stem and the number of classes."
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
