# SPDX-License-Identifier: Apache-2.0
"""The loop: a generator of what there is to report, which may begin at a checkpoint."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from experiments.config import ExperimentConfig
from experiments.data import Dataset, batches_of_each_kind, load_dataset, train_batches
from experiments.errors import UserError
from experiments.models import make_model
from experiments.run.metrics import Record
from experiments.train.averaging import with_statistics
from experiments.train.checkpoints import Checkpoints
from experiments.train.evaluation import Evaluation
from experiments.train.finite import check_finite
from experiments.train.optimizers import make_optimizer
from experiments.train.parallel import Parallel, make_parallel, mapped
from experiments.train.steps import Task, TrainState, init_state, train_step
from experiments.train.window import Window


class Stopped(Exception):
    """Training was asked to stop, and its state is saved, if there are checkpoints.

    Its arguments are the signal and the step.
    """


class Run(NamedTuple):
    """What a config is made into."""

    config: ExperimentConfig
    parallel: Parallel
    task: Task
    dataset: Dataset


def prepare(config: ExperimentConfig) -> Run:
    """Loads the data, and makes network and optimizer."""
    parallel = make_parallel(config.parallel)
    size, num = config.data.batch_size, parallel.num_devices
    if size % num:
        raise UserError(
            f"data.batch_size must be divided by the {num} devices, got {size}; see "
            "parallel.num_devices."
        )
    dataset = load_dataset(config.data)
    task = Task(
        make_model(config, dataset.num_classes, parallel),
        make_optimizer(config.optimizer, config.train.num_steps),
        config.train.label_smoothing,
        parallel.axis_name,
        parallel.mode == "pmap",
        config.train.average_decay,
    )
    return Run(config, parallel, task, dataset)


def initial_state(run: Run) -> TrainState:
    """Before the first step, on the host: no axis is bound there."""
    image, _ = run.dataset.train.load(0, None)
    task = run.task._replace(model=make_model(run.config, run.dataset.num_classes))
    scale = run.config.model.init_scale
    return init_state(task, np.stack([image, image]), run.config.seed, scale)


class Loop:
    """Where a run is: its state, its place in the data, its open window of metrics."""

    def __init__(self, run: Run, checkpoints: Checkpoints | None):
        """Begins, or goes on from the newest checkpoint."""
        self._run, self._checkpoints = run, checkpoints
        config, parallel = run.config, run.parallel
        self.done = 0
        self.window = Window()
        self._accuracy = 0.0
        self._stream = train_batches(run.dataset.train, config.data, config.seed)
        self._step = mapped(parallel, train_step, run.task)
        self._test = Evaluation(run.dataset.test, run.task, parallel)
        self._state = parallel.put_state(initial_state(run))
        if checkpoints is not None and checkpoints.latest is not None:
            whole, data = checkpoints.restore(parallel.get_state(self._state))
            self._state = parallel.put_state(whole)
            self._stream.set_state(data["iterator"])
            self.window = Window(data["window"])
            self.done, self._accuracy = data["step"], data["accuracy"]
        self._compile()

    def _compile(self) -> None:
        """Compiles outside the times, for whole and for ragged batches."""
        source, config = self._run.dataset.train, self._run.config.data
        for batch in batches_of_each_kind(source, config):
            put = self._run.parallel.put_batch(batch)
            jax.block_until_ready(self._step(self._state, put))

    @property
    def state(self) -> TrainState:
        """Whole, whatever the mode."""
        return self._run.parallel.get_state(self._state)

    def step(self, *, wait: bool) -> None:
        """Takes one step; waits for the device where asked."""
        with self.window.waiting():
            batch = next(self._stream)
        batch = self._run.parallel.put_batch(batch)
        with self.window.timed():
            self._state, scores = self._step(self._state, batch)
            self.window.add(self._run.parallel.get_scores(scores), wait=wait)
        self.done += 1

    def evaluate(self) -> dict[str, float]:
        """Scores the test set."""
        fields = self._test(self._state)
        self._accuracy = fields["test_accuracy"]
        return fields

    def evaluate_average(self) -> dict[str, float]:
        """Scores the test set by the averaged weights and their own statistics."""
        run = self._run
        model = make_model(run.config, run.dataset.num_classes)
        num = jax.process_count()
        state = with_statistics(model, self.state, run.dataset.train, num)
        fields = self._test(run.parallel.put_state(state))
        return {f"average_{name}": value for name, value in fields.items()}

    def save(self) -> None:
        """Writes a checkpoint, if all in it is finite."""
        if self._checkpoints is None:
            return
        state = self.state
        check_finite(state, self.window, self.done)
        data = {
            "iterator": self._stream.get_state(),
            "window": self.window.values(),
            "accuracy": self._accuracy,
            "step": self.done,
        }
        self._checkpoints.save(self.done, state, data, self._accuracy)


def train(
    config: ExperimentConfig,
    *,
    checkpoints: Checkpoints | None = None,
    stop: Callable[[int], int | None] = lambda step: None,
) -> Iterator[Record]:
    """Trains, and yields what there is to report as it goes.

    The same config gives the same numbers, but for the times, however often it was
    stopped and went on from a checkpoint.

    Raises:
        Stopped: `stop(step)` gave a signal.
        UserError: the data cannot be read, or the loss is not finite.
    """
    loop, loop_config = Loop(prepare(config), checkpoints), config.train
    while loop.done < loop_config.num_steps:
        number = loop.done + 1

        def due(period: int, number: int = number) -> bool:
            return number % period == 0 or number == loop_config.num_steps

        loop.step(wait=due(loop_config.log_every))
        fields: dict[str, float] = {}
        if due(loop_config.log_every):
            check_finite(loop.state, loop.window, number)
            fields |= loop.window.close()
        if due(loop_config.eval_every):
            fields |= loop.evaluate()
        if number == loop_config.num_steps and loop_config.average_decay is not None:
            fields |= loop.evaluate_average()
        if fields:
            yield Record(number, **fields)
        stopping = stop(number)
        if stopping or due(loop_config.checkpoint_every):
            loop.save()
        if stopping:
            raise Stopped(stopping, number)
