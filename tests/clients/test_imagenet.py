# SPDX-License-Identifier: Apache-2.0
"""Flax's ImageNet example: ResNet-18, trained and evaluated by the example's own loop.

`train_and_evaluate` runs as it is: TensorFlow's input pipeline, `pmap` over eight
devices whose norms are synchronised by `axis_name="batch"`, SGD with momentum, a
checkpoint. The data are ours: TensorFlow Datasets reads them under a name that is set
in the example's configuration. They are images of 16 x 512 pixels, in which the
pipeline finds no crop of the shape that it draws, and takes the centre: its draws have
no seed that could be set.

In half precision the example names its norms' `dtype`, so that outputs have the same
one in both libraries. They are equal within its rounding, with the loss scaled. Without
that, the gradients of a block whose last scale starts at 0 are below float16's numbers,
and what is left of them is rounding, in Flax as in jaxbn.
"""

import functools
import importlib
import importlib.util
import sys
import types

import jax
import numpy as np
import pytest

from tests import flax_source
from tests.clients.comparing import (
    LINEN,
    compare,
    linen_with,
    version,
    watched,
)

pytestmark = pytest.mark.clients

STEPS, BATCH, IMAGE = 4, 8, 64
PROGRAM = "examples/imagenet"


@pytest.fixture
def example(monkeypatch):
    """The example's modules, and its default configuration."""
    folder = flax_source.folder() / PROGRAM
    path = folder / "configs" / "default.py"  # this project has a `configs` too
    spec = importlib.util.spec_from_file_location("imagenet_default", path)
    default = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(default)
    monkeypatch.syspath_prepend(folder)
    found = {name: importlib.import_module(name) for name in ("train", "models")}
    yield types.SimpleNamespace(config=default.get_config(), **found)
    for name in ("train", "models", "input_pipeline"):
        del sys.modules[name]


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """The name of a data set that TensorFlow Datasets finds."""
    import tensorflow_datasets as tfds

    class FakeImages(tfds.core.GeneratorBasedBuilder):
        """Coarse noise."""

        # In a package it looks for its own source, by a library it does not bring.
        __module__ = "fake_images"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(encoding_format="jpeg")
            label = tfds.features.ClassLabel(num_classes=1000)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, STEPS * BATCH),
                    "validation": self._generate_examples(1, BATCH)}  # fmt: skip

        def _generate_examples(self, seed, number):
            rng = np.random.default_rng(seed)
            for k in range(number):
                squares = rng.integers(0, 256, (2, 64, 3)).astype(np.uint8)
                image = np.kron(squares, np.ones((8, 8, 1), np.uint8))
                yield k, {"image": image, "label": int(rng.integers(1000))}

    FakeImages(data_dir=tmp_path).download_and_prepare()
    monkeypatch.setattr(
        tfds, "builder", functools.partial(tfds.builder, data_dir=tmp_path)
    )
    return FakeImages.name


class Writer:
    """Keeps the metrics that the example writes."""

    def __init__(self):
        self.written = []

    def write_scalars(self, step, scalars):
        self.written.append({k: float(v) for k, v in scalars.items()})

    def flush(self):
        pass

    def values(self, name):
        return np.float32([row[name] for row in self.written if name in row])


def train(example, dataset, folder, monkeypatch):
    """The run of `watched`: variables, numbers before and after training."""
    import tensorflow as tf

    tf.random.set_seed(1)
    monkeypatch.setattr(tf.data.experimental, "AUTOTUNE", 1)  # one order of draws
    writer, starts = Writer(), []
    writers = example.train.metric_writers
    monkeypatch.setattr(writers, "create_default_writer", lambda **_: writer)
    create = example.train.create_train_state

    def variables(state):
        return {"params": state.params, "batch_stats": state.batch_stats}

    def noting(*args):
        state = create(*args)
        starts.append(jax.device_get(variables(state)))
        return state

    with monkeypatch.context() as patch:
        patch.setattr(example.train, "create_train_state", noting)
        with example.config.unlocked():
            example.config.update(
                model="ResNet18", dataset=dataset, batch_size=BATCH, profile=False,
                num_epochs=2, warmup_epochs=0.0, num_train_steps=STEPS,
                steps_per_eval=1, log_every_steps=1, shuffle_buffer_size=BATCH,
                learning_rate=0.1 * 256 / BATCH,  # 0.1, after the example's scaling
            )  # fmt: skip
        state = example.train.train_and_evaluate(example.config, str(folder))
    (start,) = starts
    losses = writer.values("train_loss")
    values = {"losses": losses, "evaluation": writer.values("eval_loss")}
    assert len(losses) == STEPS and len(values["evaluation"])
    return start, variables(state), {"first loss": losses[0]}, values


def test_train_and_evaluate(example, dataset, tmp_path, monkeypatch, table):
    runs = {}
    for name, norm in LINEN.items():
        monkeypatch.setattr(example.models, "nn", linen_with(norm))
        folder = tmp_path / name
        run = functools.partial(train, example, dataset, folder, monkeypatch)
        runs[name] = watched(run)
    table(compare(f"{version('flax')} {PROGRAM}", STEPS, runs))


def train_in_half_precision(example):
    """The run of `watched`: the example's step, with its smallest network."""
    config, devices = example.config, jax.devices()[:2]
    with config.unlocked():
        config.update(half_precision=True)
    network = example.models._ResNet1
    model = example.train.create_model(model_cls=network, half_precision=True)

    def rate(step):
        return 0.1

    state = example.train.create_train_state(
        jax.random.key(0), config, model, IMAGE, rate
    )
    # As the example does on a GPU.
    scale = example.train.dynamic_scale_lib.DynamicScale()
    state = state.replace(dynamic_scale=scale)
    step = jax.pmap(
        functools.partial(example.train.train_step, learning_rate_fn=rate),
        in_axes=(None, 0),
        out_axes=(None, 0),
        axis_name="batch",
        devices=devices,
    )
    rng = np.random.default_rng(0)
    images = rng.normal(1, 2, (2, BATCH, IMAGE, IMAGE, 3)).astype(np.float16)
    batch = {"image": images, "label": rng.integers(0, 1000, (2, BATCH))}

    def variables(state):
        return {"params": state.params, "batch_stats": state.batch_stats}

    start, losses = jax.device_get(variables(state)), []
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        losses.append(metrics["loss"][0])
    logits = state.apply_fn(variables(state), images[0], train=False)
    assert logits.dtype == np.float16
    values = {"losses": np.float32(losses), "outputs": logits}
    return start, variables(state), {"first loss": losses[0]}, values


def test_half_precision(example, monkeypatch, table):
    runs = {}
    for name, norm in LINEN.items():
        monkeypatch.setattr(example.models, "nn", linen_with(norm))
        runs[name] = watched(lambda: train_in_half_precision(example))
    program = f"{version('flax')} {PROGRAM}, float16"
    table(compare(program, STEPS, runs, dtype=np.float16))
