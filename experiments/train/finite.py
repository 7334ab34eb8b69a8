# SPDX-License-Identifier: Apache-2.0
"""A loss that is not finite ends the run, before it is saved."""

import jax
import numpy as np

from experiments.errors import UserError
from experiments.train.steps import TrainState
from experiments.train.window import Window


def check_finite(state: TrainState, window: Window, step: int) -> None:
    """Raises where loss or state are not finite.

    Raises:
        UserError: it names the step and the first bad tensor.
    """
    ago = window.first_not_finite()
    if ago is None:
        return
    bad = first_bad(state)
    where = (
        f"`{bad}` is the first tensor with what is not finite"
        if bad
        else ("parameters and statistics are finite still")
    )
    raise UserError(
        f"the loss is not finite at step {step - ago}; {where}. The last checkpoint is "
        "from before; try a lower optimizer.learning_rate."
    )


def first_bad(state: TrainState) -> str | None:
    """Returns the path of the first parameter or statistic that is not finite."""
    trees = {"params": state.params, "batch_stats": state.batch_stats}
    for path, leaf in jax.tree.leaves_with_path(trees):
        if not np.all(np.isfinite(np.asarray(leaf, np.float32))):
            return "/".join(str(getattr(key, "key", key)) for key in path)
    return None
