# SPDX-License-Identifier: Apache-2.0
"""Epochs, clipping, early stopping, top-5, and what the metrics hold of them."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from rich.cells import cell_len
from rich.console import Console

from experiments.config import (
    DataConfig,
    ExperimentConfig,
    OptimizerConfig,
    ParallelConfig,
    StudyConfig,
    TrainConfig,
    grid,
    values,
)
from experiments.data import ArraySource, chosen, in_steps
from experiments.data.pipeline import EvalBatches
from experiments.run.metrics import Record, read_metrics, series
from experiments.run.progress import ProgressBar, RunProgress
from experiments.train.loop import train
from experiments.train.optimizers import make_optimizer, make_schedule
from experiments.train.patience import Patience
from experiments.train.steps import _is_in_top
from tests.experiments.commands import one_line_error, run_here
from tests.experiments.test_config import figure

DENSE = "configs/digits_dense.py"


def run_in(folder, *more):
    result = run_here("train", DENSE, "--workdir", folder, *more)
    assert result.returncode == 0, result.stderr
    return result.stdout, read_metrics(folder / "metrics.jsonl")


def without_times(records):
    return [
        r._replace(ms_per_step=None, images_per_second=None, data_wait=None)
        for r in records
    ]


# Epochs


def test_epochs_through_the_command(tmp_path):
    out, records = run_in(tmp_path / "run", "--train.num-epochs", 1.5)
    assert records[-1].step == 34  # 1,437 examples in batches of 64: 23 steps an epoch
    held = json.loads((tmp_path / "run" / "config.json").read_text())["train"]
    assert (held["num_steps"], held["num_epochs"]) == (None, 1.5)
    assert "34 steps of 64 examples" in (tmp_path / "run" / "report.html").read_text()
    assert "step 34: " in out


@pytest.mark.parametrize(
    ("epochs", "empty", "steps"),
    [(1, 0, 3), (2.5, 0, 8), (0.01, 0, 1), (1, 2, 5), (0.7, 0, 2)],
)
def test_epochs_in_steps(epochs, empty, steps):
    """20 examples in batches of 8, of which some rows stay empty."""
    config = ExperimentConfig(
        name="a",
        data=DataConfig(batch_size=8, num_empty=2 * empty),
        train=TrainConfig(num_epochs=epochs),
    )
    assert in_steps(config, 20).train.total_steps == steps


def test_a_length_is_given_once():
    assert TrainConfig().total_steps == 600
    text = "`train.num_steps` must be None where train.num_epochs is given, got 5"
    with pytest.raises(ValueError, match=text):
        TrainConfig(num_steps=5, num_epochs=1.0)
    experiment = ExperimentConfig(name="a", train=TrainConfig(num_epochs=1.0))
    variants = grid(experiment, {"norm": values("norm.kind", ("batch", "none"))})
    with pytest.raises(ValueError, match=r"`train.num_epochs` must be None where "):
        StudyConfig(name="a", variants=variants, claims=(), figure=figure())


# Clipping, gradient norm, learning rate


@pytest.mark.parametrize("clip", [0.5, 1e6])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_clips_the_mean_gradient_before_weight_decay(clip, accumulate, rng):
    params = {"kernel": rng.normal(size=(3, 2)), "scale": rng.normal(size=2)}
    gradients = [
        {name: rng.normal(size=p.shape) for name, p in params.items()}
        for _ in range(accumulate)
    ]
    config = OptimizerConfig(
        learning_rate=0.1, weight_decay=0.01, clip_norm=clip,
        accumulate_steps=accumulate,
    )  # fmt: skip
    optimizer = make_optimizer(config, 10)
    given = jax.tree.map(jnp.float32, params)
    state, updates = optimizer.init(given), None
    for gradient in gradients:
        gradient = jax.tree.map(jnp.float32, gradient)
        updates, state = optimizer.update(gradient, state, given)
    mean = {k: np.mean([g[k] for g in gradients], 0) for k in params}
    norm = np.sqrt(sum(np.sum(g**2) for g in mean.values()))
    factor = min(1.0, clip / norm)
    expected = {
        "kernel": -0.1 * (factor * mean["kernel"] + 0.01 * params["kernel"]),
        "scale": -0.1 * factor * mean["scale"],
    }
    assert (factor < 1) == (clip < 1)
    for name, value in expected.items():
        np.testing.assert_allclose(updates[name], value, rtol=1e-5, atol=1e-7)


def one_by_one(**fields):
    loop = TrainConfig(num_steps=6, eval_every=6, log_every=1)
    data = DataConfig(num_train=1280)
    return list(train(ExperimentConfig(name="a", data=data, train=loop, **fields)))


def test_the_norm_is_that_before_clipping():
    free = one_by_one()
    clipped = one_by_one(optimizer=OptimizerConfig(clip_norm=1e-3))
    assert clipped[0].gradient_norm == pytest.approx(free[0].gradient_norm, rel=1e-6)
    assert clipped[0].gradient_norm > 1e-3
    assert abs(clipped[5].loss - clipped[0].loss) < abs(free[5].loss - free[0].loss)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_learning_rate_is_that_of_the_schedule(accumulate):
    config = OptimizerConfig(
        learning_rate=0.4, schedule="cosine", warmup_steps=3,
        accumulate_steps=accumulate,
    )  # fmt: skip
    records = one_by_one(optimizer=config)
    schedule = make_schedule(config, 6)
    expected = [float(schedule(k // accumulate)) for k in range(6)]
    assert [r.learning_rate for r in records] == expected
    # What optax has used: an update by SGD is the rate times the gradient.
    optimizer = make_optimizer(config, 6)
    one = {"scale": jnp.ones(2)}
    state, used = optimizer.init(one), []
    for _ in range(6):
        updates, state = optimizer.update(one, state, one)
        used.append(-float(updates["scale"][0]))
    ends = slice(accumulate - 1, None, accumulate)
    np.testing.assert_allclose(used[ends], expected[ends], rtol=1e-6)


def test_a_constant_learning_rate_is_recorded_too():
    assert {r.learning_rate for r in one_by_one()} == {0.1}


def test_the_measures_are_the_same_in_every_mode():
    data = DataConfig(num_empty=5)  # every batch has a mask
    loop = TrainConfig(num_steps=4, eval_every=2, log_every=2)
    found = []
    for mode in ("jit", "shard_map", "pmap"):
        for num in (1, 8):
            parallel = ParallelConfig(mode=mode, num_devices=num)
            records = train(
                ExperimentConfig(name="a", data=data, train=loop, parallel=parallel)
            )
            found.append([(r.gradient_norm, r.test_top5_accuracy) for r in records])
    np.testing.assert_allclose(found, np.broadcast_to(found[0], np.shape(found)), 1e-4)
    assert np.all(np.asarray(found) > 0)


# Top-5


def test_top5_is_that_of_numpy(rng):
    """With ties, which count for the example, and NaN, which count against it."""
    logits = rng.integers(0, 6, (200, 10)).astype(np.float32)
    label = rng.integers(0, 10, 200)
    logits[:20] = np.nan
    logits[20:40, :5] = np.nan
    own = logits[np.arange(200), label]
    larger = (logits > own[:, None]) | np.isnan(logits)
    expected = ~np.isnan(own) & (larger.sum(1) < 5)
    found = np.asarray(_is_in_top(jnp.asarray(logits), jnp.asarray(label)))
    np.testing.assert_array_equal(found, expected)
    assert 0 < expected.mean() < 1 and not found[:40].any()


# Early stopping


def test_patience_counts_since_the_best():
    patience, over = Patience(2), []
    for accuracy in (0.5, 0.4, 0.6, 0.6, 0.5):  # equal is not better
        patience.add(accuracy)
        over.append(patience.is_over)
        same = Patience(2)
        same.set_state(json.loads(json.dumps(patience.get_state())))
        patience = same
    assert over == [False, False, False, False, True]
    assert not Patience(None).is_over


EARLY = [
    "--train.num-epochs", 8, "--train.eval-every", 3, "--train.log-every", 7,
    "--train.checkpoint-every", 1000, "--train.patience", 3,
    "--train.average-decay", 0.9, "--train.average-examples", 300,
    "--optimizer.clip-norm", 0.7, "--optimizer.learning-rate", 1.5,
]  # fmt: skip


def last_state(folder):
    with ocp.CheckpointManager(folder / "checkpoints") as manager:
        step = manager.latest_step()
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        return step, jax.tree.leaves(manager.restore(step, args=args)["state"])


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    folder = tmp_path_factory.mktemp("early") / "run"
    return (folder, *run_in(folder, *EARLY))


def test_early_stopping_ends_like_any_run(early):
    folder, out, records = early
    steps, accuracies = series(records, "test_accuracy")
    last, best = steps[-1], max(accuracies)
    at = accuracies.index(best)
    assert last < 8 * 23 and len(accuracies) - 1 - at == 3
    line = (
        f"Early stopping after step {last} of 184: the best test accuracy, "
        f"{best:.2%}, is that of step {steps[at]}, and none of the 3 evaluations since "
        "then is better."
    )
    assert line in out.splitlines()
    assert records[-1].loss is not None and records[-1].average_test_accuracy > 0
    assert last_state(folder)[0] == last
    assert f"{last} steps of 64 examples" in (folder / "report.html").read_text()
    before = (folder / "metrics.jsonl").read_bytes()
    again, _ = run_in(folder, *EARLY)
    assert f"Resuming after step {last}." in again and line in again.splitlines()
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_averaged_weights_are_evaluated_as_often(early):
    *_, records = early
    assert series(records, "average_test_accuracy")[0] == list(
        series(records, "test_accuracy")[0]
    )
    assert series(records, "average_test_top5_accuracy")[0]


@pytest.mark.parametrize("rate", [1e20, 1e38])
def test_averaged_weights_that_are_not_finite_are_one_line(tmp_path, rate):
    more = "--train.eval-every", 1, "--train.average-decay", 0.9
    rated = "--optimizer.learning-rate", rate
    result = run_here("train", DENSE, "--workdir", tmp_path / "run", *more, *rated)
    assert one_line_error(result).startswith("error: the loss is not finite at step ")


def test_interruptions_change_nothing(early, tmp_path, monkeypatch):
    """A stop at every fifth step; with clipping, averages, epochs and patience."""
    import experiments.train.signals as signals

    expected, _, records = early
    folder, stops = tmp_path / "run", 0

    class Every:
        def __enter__(self):
            return lambda step: 15 if step % 5 == 0 else None

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(signals, "stop_on_signals", lambda *_, **__: Every())
    while True:
        result = run_here("train", DENSE, "--workdir", folder, *EARLY)
        if result.returncode == 0:
            break
        assert result.returncode == 128 + 15, result.stderr
        stops += 1
    assert stops >= 3
    found = read_metrics(folder / "metrics.jsonl")
    assert without_times(found) == without_times(records)
    (step, state), (last, other) = last_state(folder), last_state(expected)
    assert step == last
    for one, same in zip(state, other, strict=True):
        np.testing.assert_array_equal(one, same)


# The live bar


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (80, "digits_dense: test 97.5%, loss 0.0123, 2.1 ms/step"),
        (60, "digits_dense: test 97.5%, loss 0.0123"),
        (50, "digits_de…: test 97.5%, loss 0.0123"),
        (40, "digits_dense: test 97.5%"),
        (35, "test 97.5%"),
    ],
)
def test_the_bar_keeps_the_test_accuracy(width, text):
    """The records between two evaluations have none."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    with ProgressBar(console, 600) as bar:
        show = RunProgress(bar, "digits_dense", line_every=30)
        show(Record(10, test_accuracy=0.975))
        show(Record(20, loss=0.01234, accuracy=0.99, ms_per_step=2.123))
    last = out.getvalue().replace("\x1b[?25h", "").rstrip().splitlines()[-1]
    assert last.rstrip().endswith(f" {text}") and cell_len(last) <= width + 8


# The examples behind the averaged weights


def test_chosen_examples_are_a_sample_of_all(rng):
    image = rng.random((50, 2, 2, 1)).astype(np.float32)
    source = ArraySource(image, np.arange(50))

    class OnDisk:
        def __len__(self):
            return 50

        def load(self, index, rng):
            return source.load(index, rng)

    some, same, other = (chosen(s, 20, k) for s, k in
                         ((source, 0), (OnDisk(), 0), (source, 1)))  # fmt: skip
    labels = [np.concatenate([b.label for b in EvalBatches(s, 5)])
              for s in (some, same, other)]  # fmt: skip
    np.testing.assert_array_equal(labels[0], labels[1])
    assert len(set(labels[0])) == 20 and np.any(labels[0] != labels[2])
    np.testing.assert_array_equal(chosen(source, 50, 3).label, np.arange(50))
