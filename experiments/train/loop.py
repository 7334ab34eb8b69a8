# SPDX-License-Identifier: Apache-2.0
"""The training loop: a generator of metrics that can resume from a checkpoint."""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import ExperimentConfig
from experiments.data import (
    Source,
    batches_of_each_kind,
    chosen,
    in_steps,
    load_dataset,
    train_batches,
)
from experiments.errors import SharedError
from experiments.models import make_model
from experiments.run.metrics import Record
from experiments.train.checkpoints import Checkpoints, checksums
from experiments.train.dry_run import DryRun, layers_of, memory_of
from experiments.train.evaluation import Evaluation, with_average
from experiments.train.memory import require_room, require_room_for
from experiments.train.optimizers import learning_rate
from experiments.train.parallel import make_parallel, mapped
from experiments.train.patience import Patience
from experiments.train.processes import require_same, together
from experiments.train.steps import (
    Scores,
    TrainState,
    init_state,
    train_step,
    variables_of,
)
from experiments.train.tasks import make_task
from experiments.train.weights import initial_weights


class Stopped(Exception):
    """Training stopped on request; if it has checkpoints, its state is saved.

    Its arguments are the signal and the step.
    """


def train(
    config: ExperimentConfig,
    *,
    checkpoints: Checkpoints | None = None,
    stop: Callable[[int], int | None] = lambda step: None,
    begin: Callable[["Loop"], object] = lambda loop: None,
    tell: Callable[[str], object] = lambda doing: None,
) -> Iterator[Record]:
    """Trains, and yields the metrics when they are due.

    The same config gives the same numbers, except for times, however often training was
    stopped and resumed from a checkpoint.

    Args:
        config: the experiment.
        checkpoints: of the run, if it has any.
        stop: is asked after each step, and returns a signal to stop at.
        begin: is called before the first step, when everything that can be checked is:
            the data is open, the network has its parameters, the step is compiled.
        tell: is told what takes time before the first step.

    Raises:
        Stopped: `stop(step)` returned a signal.
        UserError: the data cannot be read, or the loss is not finite.
    """
    loop, every = Loop(config, checkpoints, tell), config.train
    begin(loop)
    while not loop.has_ended:
        loop.take_step()
        fields: dict[str, float] = {}
        if loop.is_due(every.eval_every):  # first, as it may end the run
            fields |= loop.evaluate()
        if loop.is_due(every.log_every):
            fields |= loop.take_metrics()
        if fields:
            loop.num_records += 1
            yield Record(loop.step, **fields)
        signal = stop(loop.step)
        if signal or loop.is_due(every.checkpoint_every):
            loop.save()
        if signal:
            loop.finish()
            raise Stopped(signal, loop.step)
    loop.finish()


class Loop:
    """A run in progress: its state, its place in the data, its metrics so far."""

    def __init__(
        self,
        config: ExperimentConfig,
        checkpoints: Checkpoints | None,
        tell: Callable[[str], object] = lambda doing: None,
    ):
        """Starts at step 0 or at the newest checkpoint, and compiles the step.

        Args:
            config: the experiment.
            checkpoints: of the run, if it has any.
            tell: is told what takes time, before it does.

        Raises:
            UserError: the data or the checkpoint cannot be read, the batch cannot be
                divided over the devices or is larger than the data set, another
                process has other data or parameters, or the memory is too small.
        """
        tell("reading the data")
        self._checkpoints = checkpoints
        self._parallel = parallel = make_parallel(config.parallel)
        size, num = config.data.batch_size, parallel.num_devices
        if size % num:
            raise SharedError(
                "`data.batch_size` must be a multiple of the number of devices, "
                f"{num}, got {size}; see parallel.num_devices."
            )
        with together():
            self._dataset = load_dataset(config.data)
            _check_batch(config, len(self._dataset.train))
            _check_padding(config, self._dataset.train.load(0, None)[0].shape)
            self._examples = self._dataset.digest()
        try:
            config = self._config = in_steps(config, len(self._dataset.train))
        except ValueError as error:  # more steps than a config may have
            raise SharedError(str(error)) from error
        classes = self._dataset.num_classes
        self._model = make_model(config, classes)  # binds no axis
        self._task = make_task(config, classes, parallel)
        self._train_step: Any = mapped(parallel, train_step, self._task)
        self._test = Evaluation(self._dataset.test, self._task, parallel)
        self._stream = train_batches(self._dataset.train, config.data, config.seed)
        self._latest = latest = None if checkpoints is None else checkpoints.latest
        self.notes = self._dataset.notes
        """What the user should know of data and weights, in sentences."""
        with together():
            state = self._initial_state()
        require_same(
            lambda: {
                "examples of data.path": self._examples,
                "newest checkpoint": latest,
                **{f"initial {name}": sum for name, sum in checksums(state).items()},
            }
        )
        self._state = parallel.put_state(state)
        self._window, self._accuracy = Window(), 0.0
        self.step, self.num_records = 0, 0
        self._patience = Patience(config.train.patience)
        if checkpoints is not None and latest is not None:
            self._resume(checkpoints)
        tell("compiling the training step")
        self._compile()

    def dry_run(self) -> DryRun:
        """Returns what the run will be; takes a batch, so that no step may follow."""
        batch, state = next(self._stream), self._parallel.get_state(self._state)
        put = self._parallel.put_batch(batch)
        return DryRun(
            len(self._dataset.train),
            len(self._dataset.test),
            layers_of(self._model, variables_of(state), batch.image[:2]),
            batch,
            memory_of(self._train_step.lower(self._state, put).compile(), state),
        )

    def _initial_state(self) -> TrainState:
        """Returns the state before the first step, on the host."""
        image, _ = self._dataset.train.load(0, None)
        task = self._task._replace(model=self._model)
        images, scale = np.stack([image, image]), self._config.model.init_scale
        seed = np.uint32(self._config.seed)
        shapes = jax.eval_shape(init_state, task, images, seed, scale)
        require_room(shapes, self._parallel.local_devices)
        state = init_state(task, images, seed, scale)
        # A run that is resumed has these weights no more, and may outlive their source.
        if self._config.init is None or self._latest is not None:
            return state
        state, note = initial_weights(Path(self._config.init), state)
        self.notes = (*self.notes, note)
        return state

    def _resume(self, checkpoints: Checkpoints) -> None:
        """Takes state, place in the data and metrics from the newest checkpoint."""
        like = self._parallel.get_state(self._state)
        state, data = checkpoints.restore(like, examples=self._examples)
        self._state = self._parallel.put_state(state)
        self._stream.set_state(data["iterator"])
        self._window = Window(data["window"])
        self._patience.set_state(data["patience"])
        self.step, self._accuracy = data["step"], data["accuracy"]
        self.num_records = data["records"]

    def _compile(self) -> None:
        """Compiles the step for full and for ragged batches, before any is timed.

        Raises:
            SharedError: the step, or an evaluation, does not fit into the memory.
        """
        self._test.require_room(self._state)
        for batch in batches_of_each_kind(self._dataset.train, self._config.data):
            put = self._parallel.put_batch(batch)
            compiled = self._train_step.lower(self._state, put).compile()
            smaller = "data.batch_size or model.hidden"
            devices = self._parallel.local_devices
            require_room_for(compiled, devices, "a training step", smaller=smaller)
            jax.block_until_ready(self._train_step(self._state, put))

    @property
    def config(self) -> ExperimentConfig:
        """The config, with its length in steps."""
        return self._config

    @property
    def has_ended(self) -> bool:
        """Whether this is the last step."""
        is_last = self.step == self._config.train.total_steps
        return is_last or self._patience.is_over

    def is_due(self, period: int) -> bool:
        """Returns whether the period ends at this step, as all do at the last."""
        return self.step % period == 0 or self.has_ended

    def take_step(self) -> None:
        """Takes one step; if measures are due, waits until the device is done."""
        start = time.perf_counter()
        batch = next(self._stream)
        waited = time.perf_counter() - start
        batch = self._parallel.put_batch(batch)
        self.step += 1
        start = time.perf_counter()
        self._state, scores = self._train_step(self._state, batch)
        scores = self._parallel.get_scores(scores)
        every = self._config.train
        if self.is_due(every.log_every) or self.is_due(every.eval_every):
            jax.block_until_ready(scores)
        self._window.add(scores, seconds=time.perf_counter() - start, waited=waited)

    def take_metrics(self) -> dict[str, float]:
        """Returns the metrics since the last call.

        Raises:
            UserError: a loss since then is not finite.
        """
        self._check_finite(self._parallel.get_state(self._state))
        window, self._window = self._window, Window()
        config, step = self._config, self.step
        rate = learning_rate(config.optimizer, config.train.total_steps, step)
        return window.metrics() | {"learning_rate": rate}

    def evaluate(self) -> dict[str, float]:
        """Scores the test set by the weights, and by the averaged ones if there are."""
        fields = self._test(self._state)
        self._accuracy = fields["test_accuracy"]
        self._patience.add(self._accuracy)
        if self._config.train.average_decay is not None:
            state = self._parallel.get_state(self._state)
            # What is not finite has no statistics; the next step then ends the run.
            if math.isfinite(fields["test_loss"]) and not first_not_finite(state):
                fields |= self._evaluate_average(state)
        return fields

    def _evaluate_average(self, state: TrainState) -> dict[str, float]:
        """Scores the test set by the averaged weights and their own statistics."""
        averaged = with_average(self._model, state, self._average_examples)
        fields = self._test(self._parallel.put_state(averaged))
        return {f"average_{name}": value for name, value in fields.items()}

    @functools.cached_property
    def _average_examples(self) -> Source:
        """The training examples that the statistics of averaged weights come from."""
        train, most = self._dataset.train, self._config.train.average_examples
        if most is None or most >= len(train):
            return train
        return chosen(train, most, self._config.seed)

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
            "records": self.num_records,
            "patience": self._patience.get_state(),
            # With these, a run is read without its data.
            "class_names": self._dataset.class_names,
            "image_shape": self._dataset.train.load(0, None)[0].shape,
        }
        self._checkpoints.save(
            self.step, state, data, self._accuracy, examples=self._examples
        )

    def finish(self) -> None:
        """Waits until the checkpoints are written."""
        if self._checkpoints is not None:
            self._checkpoints.wait()

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
        saved = self._checkpoints and self._checkpoints.latest
        kept = (
            f" The checkpoint of step {saved} was saved before that." if saved else ""
        )
        raise SharedError(
            f"the loss is not finite at step {self.step - steps_ago}; {where}.{kept} "
            "Try a lower optimizer.learning_rate."
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
        """Returns loss, accuracy, count and gradient norm of each step."""
        return [[float(v) for v in s if v is not None] for s in self._scores]

    def first_not_finite(self) -> int | None:
        """Returns how many steps ago the loss was first not finite, if it was."""
        scores = self.scores()
        for number, (loss, *_) in enumerate(scores):
            if not math.isfinite(loss):
                return len(scores) - 1 - number
        return None

    def metrics(self) -> dict[str, float]:
        """Returns means over the examples, that of the gradient's norm, and times."""
        scores = self.scores()
        total = sum(count for _, _, count, _ in scores)
        elapsed = self._seconds + self._waited
        return {
            "loss": sum(loss * count for loss, _, count, _ in scores) / total,
            "accuracy": sum(right * count for _, right, count, _ in scores) / total,
            "gradient_norm": sum(norm for *_, norm in scores) / len(scores),
            "ms_per_step": 1e3 * self._seconds / self._num_timed,
            "images_per_second": total / len(scores) * self._num_timed / elapsed,
            "data_wait": self._waited / elapsed,
        }


def _check_batch(config: ExperimentConfig, num_examples: int) -> None:
    """Raises if there are too few examples for one batch."""
    size, empty = config.data.batch_size, config.data.num_empty
    if size - empty > num_examples:
        most = f"{num_examples + empty}, the number of training examples"
        raise SharedError(
            f"`data.batch_size` must be at most {most}"
            f"{f' and empty rows of {empty}' if empty else ''}, got {size}."
        )


def _check_padding(config: ExperimentConfig, shape: tuple[int, ...]) -> None:
    """Raises if a crop could be of the padding alone."""
    padding, side = config.data.crop_padding, min(shape[:2])
    if padding >= side:
        raise SharedError(
            f"`data.crop_padding` must be less than {side}, the smaller side of an "
            f"image, got {padding}."
        )


def first_not_finite(state: TrainState) -> str | None:
    """Returns the path of the first parameter or statistic that is not finite."""
    trees = {"params": state.params, "batch_stats": state.batch_stats}
    for path, leaf in jax.tree.leaves_with_path(trees):
        if not np.all(np.isfinite(np.asarray(leaf, np.float32))):
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return None
