# SPDX-License-Identifier: Apache-2.0
"""The metrics as TensorBoard events too, if the config asks for them."""

import functools
import importlib
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.run.folder import TENSORBOARD
from experiments.run.metrics import Record


class Events:
    """Writes each record's fields as scalars; resuming purges those of later steps."""

    def __init__(self, folder: Path, *, begin: int):
        """Writes nothing yet; `begin` is the step to resume after.

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
        self._open = functools.partial(
            module.SummaryWriter, str(folder / TENSORBOARD), purge_step=begin + 1
        )

    @functools.cached_property
    def _writer(self) -> Any:
        return self._open()

    def write(self, record: Record) -> None:
        """Adds the fields that the record has."""
        fields = record._asdict()
        step = fields.pop("step")
        for name, value in fields.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is still in memory, and closes the file."""
        if "_writer" in vars(self):
            self._writer.close()
