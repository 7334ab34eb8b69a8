# SPDX-License-Identifier: Apache-2.0
"""The ranges of the config's fields, and that every config file loads."""

import dataclasses

import pytest

from experiments.config import (
    LAB_DENSE,
    AdaptationConfig,
    BenchConfig,
    Claim,
    DataConfig,
    ExperimentConfig,
    FigureConfig,
    Measure,
    ModelConfig,
    NormConfig,
    OptimizerConfig,
    ParallelConfig,
    ProcessesConfig,
    StudyConfig,
    TrainConfig,
    Variant,
    changed,
    grid,
    values,
)
from experiments.config.loading import available, load

TWICE = 2 * (Variant(settings=(("size", 1),), experiment=LAB_DENSE),)
MIXED = (Variant(settings=(("norm", 1),), experiment=LAB_DENSE),)
ADAPTATION = AdaptationConfig(corruption="blur", severity=1)


def figure(x="norm"):
    return FigureConfig(x=x, y="test_accuracy", lines=x, label="", caption="")


def claim(norm, along=""):
    first = Measure(column="test_accuracy", where=(("norm", norm),), along=along)
    return Claim(text="", source="", first=first, at_least=0.0, says="")


def study(changes=None, **fields):
    experiment = changed(LAB_DENSE, changes or {})
    variants = grid(experiment, {"norm": values("norm.kind", ("batch", "none"))})
    usual = {"variants": variants, "claims": (), "figure": figure()}
    return StudyConfig(name="a", **(usual | fields))


ERRORS = [
    (lambda: NormConfig(group_size=0), "`norm.group_size` must be >= 1, got 0."),
    (
        lambda: study(num_seeds=0),
        "`num_seeds` must be >= 1, got 0.",
    ),
    (
        lambda: study(first_seed=-1),
        "`first_seed` must be in [0, 2**32), got -1.",
    ),
    (
        lambda: study(num_workers=0),
        "`num_workers` must be >= 1, got 0.",
    ),
    (
        lambda: study(variants=()),
        "`variants` must be one or more, each with other settings, got [].",
    ),
    (
        lambda: study(variants=TWICE),
        (
            "`variants` must be one or more, each with other settings, got "
            "[{'size': 1}, {'size': 1}]."
        ),
    ),
    (
        lambda: study(variants=(*TWICE[:1], *MIXED)),
        (
            "`variants` must be variants with the settings ['size'], like the first, "
            "got [{'norm'}]."
        ),
    ),
    (
        lambda: study(claims=(claim("layer"),)),
        "`where` must be a choice of at least one variant, got (('norm', 'layer'),).",
    ),
    (
        lambda: study(claims=(claim("batch", along="rate"),)),
        "`along` must be one of the settings ['norm'], got 'rate'.",
    ),
    (
        lambda: study(figure=figure("rate")),
        "`figure` must be drawn over the settings ['norm'], got {'rate'}.",
    ),
    (
        lambda: study(changes={"train.eval_every": 7}),
        "`train.num_steps` must be a multiple of train.eval_every, got 400.",
    ),
    (
        lambda: study(probe="adaptation"),
        (
            "`adaptation` must be given for the probe adaptation, and for no other, "
            "got None."
        ),
    ),
    (
        lambda: ModelConfig(name="plain", depth=1),
        "`model.depth` must be >= 2, got 1.",
    ),
    (
        lambda: ModelConfig(hidden=()),
        "`model.hidden` must be None or at least one number, each >= 1, got ().",
    ),
    (
        lambda: ModelConfig(dropout=1.0),
        "`model.dropout` must be in [0, 1), got 1.0.",
    ),
    (
        lambda: ModelConfig(name="gru", dropout=0.5),
        (
            "`model.dropout` must be left out for gru, got 0.5; it applies to dense "
            "and conv only."
        ),
    ),
    (
        lambda: ModelConfig(init_scale=0.0),
        "`model.init_scale` must be > 0, got 0.0.",
    ),
    (
        lambda: NormConfig(kind="layer", affine="fixed"),
        (
            "`norm.affine` must be both, scale, bias or none for kind layer, got "
            "'fixed'; fixed applies to batch and renorm only."
        ),
    ),
    (
        lambda: NormConfig(kind="group", noise=1.0),
        (
            "`norm.noise` must be 0 for kind group, got 1.0; noise applies to batch "
            "and renorm only."
        ),
    ),
    (lambda: NormConfig(noise=-1.0), "`norm.noise` must be >= 0, got -1.0."),
    (
        lambda: NormConfig(fixed_scale=0.0),
        "`norm.fixed_scale` must be > 0, got 0.0.",
    ),
    (
        lambda: DataConfig(num_empty=64),
        (
            "`data.num_empty` must be at least 0 and less than data.batch_size, 64, "
            "got 64."
        ),
    ),
    (lambda: DataConfig(num_train=0), "`data.num_train` must be >= 1, got 0."),
    (lambda: DataConfig(num_test=0), "`data.num_test` must be >= 1, got 0."),
    (lambda: DataConfig(downsample=0), "`data.downsample` must be >= 1, got 0."),
    (
        lambda: DataConfig(name="tfds", path="a", downsample=2),
        (
            "`data.downsample` must be 1 for tfds, got 2; data.image_size sets the "
            "size of its images."
        ),
    ),
    (
        lambda: ModelConfig(name="resnet18", width=0),
        "`model.width` must be >= 1, got 0.",
    ),
    (
        lambda: BenchConfig(name="a", num_runs=0),
        "`num_runs` must be in [1, 10] or a multiple of 10, got 0.",
    ),
    (
        lambda: BenchConfig(name="a", num_runs=25),
        "`num_runs` must be in [1, 10] or a multiple of 10, got 25.",
    ),
    (
        lambda: ModelConfig(name="resnet18", activation="tanh"),
        (
            "`model.activation` must be left out for resnet18, got 'tanh'; it applies "
            "to dense, conv and plain only."
        ),
    ),
    (
        lambda: ModelConfig(name="dense", depth=5),
        "`model.depth` must be left out for dense, got 5; it applies to plain only.",
    ),
    (
        lambda: dataclasses.replace(ADAPTATION, batch_size=1),
        "`batch_size` must be >= 2, got 1.",
    ),
    (
        lambda: dataclasses.replace(ADAPTATION, prior_count=-1.0),
        "`prior_count` must be >= 0, got -1.0.",
    ),
    (
        lambda: dataclasses.replace(ADAPTATION, severity=6),
        "`severity` must be in [0, 5], got 6.",
    ),
    (lambda: DataConfig(batch_size=0), "`data.batch_size` must be >= 1, got 0."),
    (lambda: NormConfig(momentum=1.0), "`norm.momentum` must be in [0, 1), got 1.0."),
    (lambda: NormConfig(epsilon=0.0), "`norm.epsilon` must be > 0, got 0.0."),
    (
        lambda: OptimizerConfig(learning_rate=float("nan")),
        "`optimizer.learning_rate` must be > 0, got nan.",
    ),
    (lambda: BenchConfig(name="a", rounds=0), "`rounds` must be >= 1, got 0."),
    (
        lambda: BenchConfig(name="a", shape=(3, 2, 2, 2)),
        (
            "`shape` must be four positive numbers (two for a layer), the first even, "
            "got (3, 2, 2, 2)."
        ),
    ),
    (lambda: TrainConfig(num_steps=0), "`train.num_steps` must be >= 1, got 0."),
    (lambda: TrainConfig(eval_every=0), "`train.eval_every` must be >= 1, got 0."),
    (
        lambda: NormConfig(virtual_batch_size=0),
        "`norm.virtual_batch_size` must be >= 1, got 0.",
    ),
    (
        lambda: ExperimentConfig(name="a", norm=NormConfig(virtual_batch_size=24)),
        "`norm.virtual_batch_size` must be a divisor of data.batch_size, 64, got 24.",
    ),
    (
        lambda: OptimizerConfig(name="adam", weight_decay=0.1),
        (
            "`optimizer.weight_decay` must be 0 for adam, got 0.1; adamw has weight "
            "decay."
        ),
    ),
    (
        lambda: DataConfig(name="mnist"),
        "`data.path` must be the folder of the mnist files, got None.",
    ),
    (
        lambda: DataConfig(image_size=8),
        (
            "`data.image_size` must be left out for digits, got 8; it applies to "
            "image_folder and tfds only."
        ),
    ),
    (
        lambda: ParallelConfig(statistics=0),
        "`parallel.statistics` must be global, device, or >= 1, got 0.",
    ),
    (
        lambda: ExperimentConfig(name="a", parallel=ParallelConfig(statistics=2)),
        (
            "`parallel.statistics` must be global, device or a divisor of "
            "parallel.num_devices, got 2; parallel.num_devices is None."
        ),
    ),
    (
        lambda: ProcessesConfig(num_processes=2),
        (
            "`processes.coordinator_address` must be given together with num_processes "
            "and process_id, got None; give all three or none."
        ),
    ),
    (
        lambda: ExperimentConfig(name="a/b"),
        "`name` must be a plain folder name, got 'a/b'.",
    ),
    (
        lambda: ExperimentConfig(name="a", seed=-1),
        "`seed` must be in [0, 2**32), got -1.",
    ),
]


@pytest.mark.parametrize(("call", "text"), ERRORS, ids=[text for _, text in ERRORS])
def test_range(call, text):
    with pytest.raises(ValueError) as raised:
        call()
    assert str(raised.value) == text


@pytest.mark.parametrize("path", [p for p, _ in available()], ids=lambda p: p.stem)
def test_config_file(path):
    command, kind = "train", ExperimentConfig
    if path.stem.startswith("bench_"):
        command, kind = "bench", BenchConfig
    if path.parent.name == "studies":
        command, kind = "study", StudyConfig
    config = load(path, kind)
    assert config.name == path.stem
    text = path.read_text()
    for required in (f"python -m experiments {command} {path}", "Cost:", "Expected:"):
        assert required in text
    assert "TODO" not in text


def test_the_laboratory_has_its_studies():
    found = {
        load(p, StudyConfig).name for p, _ in available() if p.parent.name == "studies"
    }
    assert found == {
        "adaptation", "covariate_shift", "speed", "learning_rate", "initialization",
        "regularization", "batch_size", "placement", "affine", "optimizers",
        "recurrent", "inference", "cost", "depth",
    }  # fmt: skip


def test_a_grid_has_every_combination():
    axes = {
        "norm": values("norm.kind", ("batch", "none")),
        "size": {"large": {"data.batch_size": 64, "norm.momentum": 0.5}, "usual": {}},
    }
    found = {v.settings: v.experiment for v in grid(LAB_DENSE, axes)}
    assert len(found) == 4
    large = found[("norm", "none"), ("size", "large")]
    assert (large.norm.kind, large.norm.momentum, large.data.batch_size) == (
        "none", 0.5, 64,
    )  # fmt: skip
    assert found[("norm", "batch"), ("size", "usual")] == LAB_DENSE


def test_there_are_configs():
    assert {"digits_dense", "digits_conv"} <= {p.stem for p, _ in available()}


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExperimentConfig(name="a").seed = 2  # type: ignore[misc]
