# SPDX-License-Identifier: Apache-2.0
"""What a run has learned, read from its folder, where it may be in training right now.

Nothing in the folder is locked or changed. The devices that the run was trained on and
its data are not needed.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from experiments.config import ExperimentConfig
from experiments.config.stored import from_fields
from experiments.data import Dataset, load_dataset
from experiments.errors import UserError
from experiments.models import make_model
from experiments.run.folder import CONFIG
from experiments.train.checkpoints import Checkpoints
from experiments.train.steps import TrainState, variables_of

Which = Literal["best", "latest"] | int
"""Which checkpoint: the best by test accuracy, the newest, or that of a step."""


class SavedRun(NamedTuple):
    """A checkpoint, and what is needed to apply it to images."""

    folder: Path
    config: ExperimentConfig
    step: int
    state: TrainState
    accuracy: float  # on the test set, the last that was measured up to this step
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # height, width, channels

    @property
    def model(self) -> nn.Module:
        """The network, on one device."""
        return make_model(self.config, len(self.class_names))

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is applied with."""
        return variables_of(self.state)


def load(folder: Path, which: Which = "best", *, path: str | None = None) -> SavedRun:
    """Reads a checkpoint.

    Args:
        folder: of the run.
        which: of its checkpoints.
        path: where the data is now, if not at the run's `data.path`.

    Raises:
        UserError: the folder holds no run or no such checkpoint, or it cannot be read.
    """
    config = read_config(folder)
    if path is not None:
        with _named(f"`--data.path` does not fit `{folder}`"):
            data_config = dataclasses.replace(config.data, path=path)
            config = dataclasses.replace(config, data=data_config)
    step, state, data = restore(folder, which)
    if "class_names" in data:
        names, shape = data["class_names"], data["image_shape"]
    else:
        dataset = _data_of_older(folder, config)
        names, shape = dataset.class_names, dataset.train.load(0, None)[0].shape
    saved = SavedRun(
        folder, config, step, state, data["accuracy"], tuple(names), tuple(shape)
    )
    _check_network(saved)
    return saved


def read_config(folder: Path) -> ExperimentConfig:
    """Reads the config of a run.

    Raises:
        UserError: the folder holds no run, or this version does not know its config.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"`{folder}` is not the folder of a run: it has no `{CONFIG}`.")
    with _named(f"`{path}` is not the config of a run"):
        return from_fields(ExperimentConfig, json.loads(path.read_text("utf-8")))


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Raises ValueError, which JSON and configs raise, as one line."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{what}: {error}") from error


def restore(
    folder: Path, which: Which = "best"
) -> tuple[int, TrainState, dict[str, Any]]:
    """Returns the step, the state and the data of a checkpoint.

    Raises:
        UserError: the folder holds no run or no such checkpoint, or it cannot be read.
    """
    config = read_config(folder)
    while True:
        opened = Checkpoints(folder, config, read_only=True)
        with contextlib.closing(opened) as checkpoints:
            held = checkpoints.steps
            if not held:
                raise UserError(
                    f"`{folder}` has no checkpoint yet; its config asks for one every "
                    f"{config.train.checkpoint_every} steps and at the end."
                )
            try:
                step = _choose(checkpoints, which)
                return step, *checkpoints.read(step)
            except UserError:
                if {*held} <= {*checkpoints.steps}:
                    raise
                # The run, in training, has removed one of them.


def _choose(checkpoints: Checkpoints, which: Which) -> int:
    """Returns the step of a checkpoint."""
    steps = checkpoints.steps
    step = checkpoints.best if which == "best" else which
    step = checkpoints.latest if which == "latest" else step
    if step not in steps:
        raise UserError(
            "`checkpoint` must be best, latest, or one of the steps that are kept, "
            f"{', '.join(map(str, steps))}, got {which}."
        )
    return int(step)


def _data_of_older(folder: Path, config: ExperimentConfig) -> Dataset:
    """Loads the data of a run whose checkpoints have no class names."""
    try:
        return load_dataset(config.data)
    except (UserError, OSError) as error:
        raise UserError(
            f"`{folder}` was trained by a version that left the names of the classes "
            f"to the data, which cannot be read: {error}"
        ) from error


def _check_network(saved: SavedRun) -> None:
    """Checks that the checkpoint is of the network that the config describes."""
    images = jax.ShapeDtypeStruct((2, *saved.image_shape), np.float32)
    keys = {name: jax.random.key(0) for name in ("params", "dropout")}
    wanted = jax.eval_shape(
        lambda image: saved.model.init(keys, image, train=True), images
    )
    differ = differences(wanted, saved.variables)
    if differ:
        raise UserError(
            f"step {saved.step} of `{saved.folder}` is of another network than its "
            f"`{CONFIG}` describes: {differ}."
        )


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Says which arrays are missing, left over, or of another shape; empty if none."""
    ours, theirs = flat(wanted), flat(found)
    missing = [name for name in ours if name not in theirs]
    others = [name for name in theirs if name not in ours]
    shapes = [
        f"{name} {theirs[name].shape} for {ours[name].shape}"
        for name in ours
        if name in theirs and ours[name].shape != theirs[name].shape
    ]
    parts = {
        "it lacks": missing,
        "it has also": others,
        "in another shape it has": shapes,
    }
    return "; ".join(f"{verb} {_some(names)}" for verb, names in parts.items() if names)


def _some(names: list[str], num: int = 4) -> str:
    more = f" and {len(names) - num} more" if len(names) > num else ""
    return ", ".join(sorted(names)[:num]) + more


def flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arrays by their paths, such as `params.Dense_0.kernel`."""
    return flatten_dict(dict(variables), sep=".")  # pyright: ignore
