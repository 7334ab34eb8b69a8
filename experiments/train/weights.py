# SPDX-License-Identifier: Apache-2.0
"""Weights as one file of safetensors, and as the start of another run.

Arrays have the names of their paths, as `params.Dense_0.kernel`, so that Flax gives the
variables back without jaxbn:

    from flax.traverse_util import unflatten_dict
    from safetensors.flax import load_file
    variables = unflatten_dict(load_file("best.safetensors"), sep=".")
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from experiments.errors import UserError, first_line
from experiments.run.folder import WEIGHTS, write_atomically
from experiments.run.provenance import provenance
from experiments.train import saved
from experiments.train.saved import SavedRun, differences, flat
from experiments.train.steps import TrainState, before_update, variables_of

SUFFIX = ".safetensors"
LAYOUT = "variables of a Flax Linen module; a name is a path joined by dots"


def export(run: SavedRun, path: Path) -> None:
    """Writes parameters and statistics, atomically, with what describes them.

    The metadata of the file has the config, the names of the classes and the shape of
    an image as JSON, the step, the test accuracy, and the versions.
    """
    arrays = {name: np.asarray(array) for name, array in flat(run.variables).items()}
    config = dataclasses.asdict(run.config)
    del config["processes"]
    metadata = {
        "format": "flax",
        "layout": LAYOUT,
        "config": json.dumps(config),
        "class_names": json.dumps(run.class_names),
        "image_shape": json.dumps(run.image_shape),
        "step": str(run.step),
        "test_accuracy": str(run.accuracy),
        "versions": json.dumps(provenance()["versions"]),
    }
    write_atomically(path, save(arrays, metadata))


def export_best(folder: Path) -> Path:
    """Writes the best weights of a run into its folder, and returns the file."""
    path = folder / WEIGHTS
    export(saved.load(folder), path)
    return path


def initial_weights(source: Path, like: TrainState) -> tuple[TrainState, str]:
    """Returns a state before the first step, with the weights of another run.

    It takes parameters and statistics, and neither optimizer, step nor key. A last
    layer with another number of outputs keeps its random start.

    Args:
        source: the folder of a run, whose best checkpoint is read, or a file that
            `export` wrote.
        like: the state before the first step, on the host.

    Returns:
        The state, and a sentence that says what was taken.

    Raises:
        UserError: there is no such run or file, or it is of another network.
    """
    found, origin = _read(source)
    ours, theirs = flat(variables_of(like)), flat(found)
    layer = _other_last_layer(ours, theirs)
    first = {name: array for name, array in ours.items() if _is_in(name, layer)}
    taken = {name: array for name, array in theirs.items() if not _is_in(name, layer)}
    differ = differences({n: a for n, a in ours.items() if n not in first}, taken)
    if differ:
        raise UserError(
            "`--init` must have the arrays of this network, all but the last layer in "
            f"the same shapes, got {origin}: {differ}."
        )
    for name, array in taken.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(
                "`--init` must have numbers of floating point, but "
                f"{name} of {origin} is {array.dtype}."
            )
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            taken[name] = np.asarray(array).astype(ours[name].dtype)
        if not np.all(np.isfinite(taken[name])):
            raise UserError(
                f"`--init` must be finite in {ours[name].dtype}, but {name} of "
                f"{origin} is not."
            )
    variables = unflatten_dict({**first, **taken}, sep=".")
    params = variables["params"]
    state = like._replace(
        params=params,
        batch_stats=before_update(variables.get("batch_stats", {}), like.opt_state),
        average=params if like.average else like.average,
    )
    text = f"Starting from {origin}: {len(taken)} of {len(ours)} arrays."
    if layer is not None:
        outputs = [side[f"{layer}.kernel"].shape[-1] for side in (ours, theirs)]
        text += (
            f" {layer.removeprefix('params.')} starts at random, since it has "
            f"{outputs[0]} outputs here, {outputs[1]} there."
        )
    return state, text


def _read(source: Path) -> tuple[dict[str, Any], str]:
    """Returns the variables of a run or a file, and the words that name it."""
    if source.is_dir():
        step, state, data = saved.restore(source, "best")
        origin = f"step {step} of `{source}` (test accuracy {data['accuracy']:.2%})"
        return variables_of(state), origin
    if not source.is_file():
        raise UserError(
            f"`--init` must be the folder of a run or a {SUFFIX} file, got `{source}`, "
            "which does not exist."
        )
    try:
        arrays = load_file(source)
        if array := _within_another(arrays):
            raise ValueError(f"`{array}` is an array, and a part of others' names")
        return unflatten_dict(arrays, sep="."), f"`{source}`"
    except (
        SafetensorError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,  # a dtype that NumPy lacks
    ) as error:
        raise UserError(
            f"`{source}` cannot be read as safetensors: {first_line(error)}."
        ) from error


def _within_another(arrays: dict[str, Any]) -> str | None:
    """Returns the name of an array that is where others have a module, if one is."""
    modules = {
        ".".join(parts[:length])
        for parts in (name.split(".") for name in arrays)
        for length in range(1, len(parts))
    }
    return next((name for name in arrays if name in modules), None)


def _other_last_layer(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Returns the path of the last layer, if it differs, in its outputs alone.

    Any other layer with another number of outputs has one after it that takes another
    number of inputs, so a layer that differs alone is the last.
    """
    differ = {
        name.rpartition(".")[0]
        for name in {*ours} & {*theirs}
        if ours[name].shape != theirs[name].shape
    }
    if len(differ) != 1:
        return None
    (layer,) = differ
    of_layer = [name for name in ours if _is_in(name, layer)]
    only_outputs = all(
        name in theirs and ours[name].shape[:-1] == theirs[name].shape[:-1]
        for name in of_layer
    )
    return layer if only_outputs and f"{layer}.kernel" in of_layer else None


def _is_in(name: str, layer: str | None) -> bool:
    return layer is not None and name.rpartition(".")[0] == layer
