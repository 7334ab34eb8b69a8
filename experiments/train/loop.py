# SPDX-License-Identifier: Apache-2.0
"""The training loop: a generator of metrics that can resume from a checkpoint."""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import ExperimentConfig
from experiments.data import batches_of_each_kind, load_dataset, train_batches
from experiments.errors import UserError
from experiments.models import make_model
from experiments.run.metrics import Record
from experiments.train.checkpoints import Checkpoints
from experiments.train.evaluation import Evaluation, with_average
from experiments.train.optimizers import make_optimizer
from experiments.train.parallel import make_parallel, mapped
from experiments.train.steps import Scores, Task, TrainState, init_state, train_step


class Stopped(Exception):
    """Training stopped on request; if it has checkpoints, its state is saved.

    Its arguments are the signal and the step.
    """


def train(
    config: ExperimentConfig,
    *,
    checkpoints: Checkpoints | None = None,
    stop: Callable[[int], int | None] = lambda step: None,
) -> Iterator[Record]:
    """Trains, and yields the metrics when they are due.

    The same config gives the same numbers, except for times, however often training was
    stopped and resumed from a checkpoint.

    Raises:
        Stopped: `stop(step)` returned a signal.
        UserError: the data cannot be read, or the loss is not finite.
    """
    loop, every = Loop(config, checkpoints), config.train
    while loop.step < every.num_steps:
        loop.take_step()
        fields: dict[str, float] = {}
        if loop.is_due(every.log_every):
            fields |= loop.take_metrics()
        if loop.is_due(every.eval_every):
            fields |= loop.evaluate()
        if loop.step == every.num_steps and every.average_decay is not None:
            fields |= loop.evaluate_average()
        if fields:
            yield Record(loop.step, **fields)
        signal = stop(loop.step)
        if signal or loop.is_due(every.checkpoint_every):
            loop.save()
        if signal:
            raise Stopped(signal, loop.step)


class Loop:
    """A run in progress: its state, its place in the data, its metrics so far."""

    def __init__(self, config: ExperimentConfig, checkpoints: Checkpoints | None):
        """Starts at step 0 or at the newest checkpoint, and compiles the step.

        Raises:
            UserError: the data or the checkpoint cannot be read, or the batch cannot be
                divided over the devices.
        """
        self._config, self._checkpoints = config, checkpoints
        self._parallel = parallel = make_parallel(config.parallel)
        size, num = config.data.batch_size, parallel.num_devices
        if size % num:
            raise UserError(
                "`data.batch_size` must be a multiple of the number of devices, "
                f"{num}, got {size}; see parallel.num_devices."
            )
        self._dataset = load_dataset(config.data)
        classes = self._dataset.num_classes
        self._model = make_model(config, classes)  # binds no axis
        self._task = Task(
            model=make_model(
                config, classes, axis_name=parallel.axis_name, num_devices=num
            ),
            optimizer=make_optimizer(config.optimizer, config.train.num_steps),
            label_smoothing=config.train.label_smoothing,
            axis_name=parallel.axis_name,
            sums_gradients=parallel.mode == "pmap",
            average_decay=config.train.average_decay,
        )
        self._train_step = mapped(parallel, train_step, self._task)
        self._test = Evaluation(self._dataset.test, self._task, parallel)
        self._stream = train_batches(self._dataset.train, config.data, config.seed)
        self._state = parallel.put_state(self._initial_state())
        self._window, self._accuracy, self.step = Window(), 0.0, 0
        if checkpoints is not None and checkpoints.latest is not None:
            self._resume(checkpoints)
        self._compile()

    def _initial_state(self) -> TrainState:
        """Returns the state before the first step, on the host."""
        image, _ = self._dataset.train.load(0, None)
        task = self._task._replace(model=self._model)
        images, scale = np.stack([image, image]), self._config.model.init_scale
        return init_state(task, images, self._config.seed, scale)

    def _resume(self, checkpoints: Checkpoints) -> None:
        """Takes state, place in the data and metrics from the newest checkpoint."""
        state, data = checkpoints.restore(self._parallel.get_state(self._state))
        self._state = self._parallel.put_state(state)
        self._stream.set_state(data["iterator"])
        self._window = Window(data["window"])
        self.step, self._accuracy = data["step"], data["accuracy"]

    def _compile(self) -> None:
        """Compiles the step for full and for ragged batches, before any is timed."""
        for batch in batches_of_each_kind(self._dataset.train, self._config.data):
            put = self._parallel.put_batch(batch)
            jax.block_until_ready(self._train_step(self._state, put))

    def is_due(self, period: int) -> bool:
        """Returns whether the period ends at this step, as all do at the last."""
        return self.step % period == 0 or self.step == self._config.train.num_steps

    def take_step(self) -> None:
        """Takes one step; if metrics are due, waits until the device is done."""
        start = time.perf_counter()
        batch = next(self._stream)
        waited = time.perf_counter() - start
        batch = self._parallel.put_batch(batch)
        self.step += 1
        start = time.perf_counter()
        self._state, scores = self._train_step(self._state, batch)
        scores = self._parallel.get_scores(scores)
        if self.is_due(self._config.train.log_every):
            jax.block_until_ready(scores)
        self._window.add(scores, seconds=time.perf_counter() - start, waited=waited)

    def take_metrics(self) -> dict[str, float]:
        """Returns the metrics since the last call.

        Raises:
            UserError: a loss since then is not finite.
        """
        self._check_finite(self._parallel.get_state(self._state))
        window, self._window = self._window, Window()
        return window.metrics()

    def evaluate(self) -> dict[str, float]:
        """Scores the test set."""
        fields = self._test(self._state)
        self._accuracy = fields["test_accuracy"]
        return fields

    def evaluate_average(self) -> dict[str, float]:
        """Scores the test set by the averaged weights and their own statistics."""
        state = self._parallel.get_state(self._state)
        averaged = with_average(self._model, state, self._dataset.train)
        fields = self._test(self._parallel.put_state(averaged))
        return {f"average_{name}": value for name, value in fields.items()}

    def save(self) -> None:
        """Writes a checkpoint, if the run has them.

        Raises:
            UserError: a loss since the last metrics is not finite.
        """
        if self._checkpoints is None:
            return
        state = self._parallel.get_state(self._state)
        self._check_finite(state)
        data = {
            "iterator": self._stream.get_state(),
            "window": self._window.scores(),
            "accuracy": self._accuracy,
            "step": self.step,
        }
        self._checkpoints.save(self.step, state, data, self._accuracy)

    def _check_finite(self, state: TrainState) -> None:
        """Raises an error that names the step and the first bad tensor."""
        steps_ago = self._window.first_not_finite()
        if steps_ago is None:
            return
        bad = first_not_finite(state)
        where = (
            f"the first tensor that is not finite is `{bad}`"
            if bad
            else "the parameters and statistics are still finite"
        )
        raise UserError(
            f"the loss is not finite at step {self.step - steps_ago}; {where}. The "
            "last checkpoint was saved before that; try a lower "
            "optimizer.learning_rate."
        )


class Window:
    """Scores and times of the steps since the last metrics."""

    def __init__(self, scores: Sequence[Sequence[float]] = ()):
        """Starts with the scores that a checkpoint holds, or empty."""
        self._scores = [Scores(*map(jnp.float32, values)) for values in scores]
        self._seconds, self._waited, self._num_timed = 0.0, 0.0, 0

    def add(self, scores: Scores, *, seconds: float, waited: float) -> None:
        """Adds a step: how long it took, and how long it waited for its data."""
        self._scores.append(scores)
        self._seconds += seconds
        self._waited += waited
        self._num_timed += 1

    def scores(self) -> list[list[float]]:
        """Returns loss, accuracy and count of each step."""
        return [[float(value) for value in scores] for scores in self._scores]

    def first_not_finite(self) -> int | None:
        """Returns how many steps ago the loss was first not finite, if it was."""
        scores = self.scores()
        for number, (loss, *_) in enumerate(scores):
            if not math.isfinite(loss):
                return len(scores) - 1 - number
        return None

    def metrics(self) -> dict[str, float]:
        """Returns means over the examples, and times."""
        scores = self.scores()
        total = sum(count for *_, count in scores)
        elapsed = self._seconds + self._waited
        return {
            "loss": sum(loss * count for loss, _, count in scores) / total,
            "accuracy": sum(right * count for _, right, count in scores) / total,
            "ms_per_step": 1e3 * self._seconds / self._num_timed,
            "images_per_second": total / len(scores) * self._num_timed / elapsed,
            "data_wait": self._waited / elapsed,
        }


def first_not_finite(state: TrainState) -> str | None:
    """Returns the path of the first parameter or statistic that is not finite."""
    trees = {"params": state.params, "batch_stats": state.batch_stats}
    for path, leaf in jax.tree.leaves_with_path(trees):
        if not np.all(np.isfinite(np.asarray(leaf, np.float32))):
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return None
