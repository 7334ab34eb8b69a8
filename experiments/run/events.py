# SPDX-License-Identifier: Apache-2.0
"""The metrics as TensorBoard events too, if the config asks for them."""

import importlib
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.run.metrics import Record

FOLDER = "tensorboard"


class Events:
    """Writes each record's fields as scalars; resuming purges those of later steps."""

    def __init__(self, folder: Path, *, begin: int):
        """Opens a file in the run's folder; `begin` is the step to resume after.

        Raises:
            UserError: the package is not installed.
        """
        try:
            module: Any = importlib.import_module("tensorboardX")
        except ImportError:
            raise UserError(
                "`train.tensorboard` needs the package tensorboardX; install it with "
                "`pip install -e '.[tensorboard]'`."
            ) from None
        path = str(folder / FOLDER)
        self._writer = module.SummaryWriter(path, purge_step=begin + 1)

    def write(self, record: Record) -> None:
        """Adds the fields that the record has."""
        fields = record._asdict()
        step = fields.pop("step")
        for name, value in fields.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is still in memory, and closes the file."""
        self._writer.close()
