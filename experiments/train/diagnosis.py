# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the batch norms of a saved run, by the batches of its training."""

from typing import Any

import jax

from experiments.data import Batch, load_dataset
from experiments.data.pipeline import TrainingBatch
from experiments.errors import UserError
from experiments.models import make_model
from experiments.train.optimizers import is_kernel
from experiments.train.saved import SavedRun
from experiments.train.steps import training_forward
from jaxbn import linen


def diagnose(run: SavedRun, num_batches: int) -> Any:
    """Diagnoses a checkpoint by the batches that would have come next.

    Raises:
        UserError: the network has no batch norm, or its data cannot be read.
    """
    config = run.config
    if not jax.tree.leaves(run.variables["batch_stats"]):
        raise UserError(
            f"`{run.folder}` must have batch norms (norm.kind batch or renorm), got "
            f"norm.kind {config.norm.kind}."
        )
    # As in training: statistics of each device are those of parts of the batch.
    model = make_model(
        config, len(run.class_names), num_devices=config.parallel.num_devices
    )
    batch_of = TrainingBatch(load_dataset(config.data).train, config.data, config.seed)
    # One at a time, as they may fill the memory together.
    batches = (batch_of(run.step + number) for number in range(num_batches))

    def apply(variables: Any, batch: Batch) -> Any:
        return training_forward(model, variables, batch, jax.random.key(0))

    def infer(variables: Any, batch: Batch) -> Any:
        return run.model.apply(variables, batch.image, train=False)

    decay = config.optimizer.weight_decay > 0
    return linen.diagnose(
        apply,
        run.variables,
        batches,
        infer=infer,
        steps=run.step // config.optimizer.accumulate_steps,  # statistics move then
        decay_mask=is_kernel if decay else False,
    )
