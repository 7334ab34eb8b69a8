# SPDX-License-Identifier: Apache-2.0
"""`plan`: names, errors, the table; and the step itself, compiled for CPUs."""

import functools
import importlib.metadata

import jax
import numpy as np
import pytest

from experiments.cli.plan import table_of
from experiments.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    NormConfig,
    OptimizerConfig,
    ParallelConfig,
)
from experiments.data import Batch, load_dataset
from experiments.data.shapes import IMAGENET, shapes_of
from experiments.errors import UserError
from experiments.hardware import hlo, training
from experiments.hardware.programs import Costs, TooLarge, collectives_of, too_large
from experiments.hardware.targets import CARDS, EXAMPLES, Target, parse
from experiments.train.steps import init_state, train_step
from tests.experiments.commands import one_line_error, run_here
from tests.experiments.readers import error_of

DENSE = ("plan", "digits_dense")
CPUS = Target("cpu:2", "cpu", jax.devices()[:2], 10**6, "jax")
SHAPES = shapes_of(DataConfig())


def dense(mode="jit", num_empty=0, **more):
    data, parallel = DataConfig(num_empty=num_empty), ParallelConfig(mode=mode)
    config = ExperimentConfig(name="a", data=data, parallel=parallel, **more)
    return training.on(CPUS, config)


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("v5e:4x4", ("v5e", "4x4")),
        ("v4:2x2x1", ("v4", "2x2x1")),
        ("h200", ("h200", "1")),
        ("a100:16", ("a100", "16")),
        *((f"{k}:{layout}", (k, layout)) for k, layout in EXAMPLES.items()),
    ],
)
def test_names(name, parsed):
    assert parse(name) == parsed


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("v5", "`--hardware` must be one of v2:2x2, "),
        ("", "`--hardware` must be one of v2:2x2, "),
        ("V5E:4x4", "`--hardware` must be one of v2:2x2, "),
        ("v5e", "`--hardware` v5e must have a layout, such as v5e:4x4, got `v5e`."),
        ("v5e:16", "`--hardware` v5e must have a layout, such as v5e:4x4"),
        ("v5e:0x4", "`--hardware` v5e must have a layout, such as v5e:4x4"),
        ("h100:0", "`--hardware` h100 must have 1 to 8 devices or a multiple of 8"),
        ("h100:12", "`--hardware` h100 must have 1 to 8 devices or a multiple of 8"),
        ("h100:2x2", "`--hardware` h100 must have 1 to 8 devices or a multiple of 8"),
    ],
)
def test_wrong_names(name, start):
    line = one_line_error(run_here(*DENSE, "--hardware", name))
    assert line.startswith(f"error: {start}") and f"got `{name}`" in line
    assert "h200:8" in line or "one of" not in start


def test_without_a_name():
    line = one_line_error(run_here(*DENSE))
    assert line.startswith("error: `plan` takes --hardware NAME: one of v2:2x2, ")


@pytest.mark.parametrize(
    ("name", "package"), [("v5e:4x4", "libtpu"), ("h200:8", "jax-cuda13-plugin")]
)
def test_without_the_compiler(monkeypatch, tmp_path, name, package):
    """A folder that has the name of its module is no package."""

    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    (tmp_path / package.replace("-", "_")).mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert one_line_error(run_here(*DENSE, "--hardware", name)) == (
        f"error: compiling for {name} needs the package {package}; install it with "
        '`pip install "jaxbn[hardware]"`.'
    )


def test_no_classes():
    line = one_line_error(run_here(*DENSE, "--num-classes", "0"))
    assert line == "error: `--num-classes` must be >= 1, got 0."


def test_devices_that_cannot_share_the_batch():
    config = ExperimentConfig(name="a", data=DataConfig(batch_size=63))
    assert error_of(lambda: training.on(CPUS, config)) == (
        "cpu:2 has 2 devices: `parallel.num_devices` must be a divisor of "
        "data.batch_size, 63, got 2."
    )


def test_pmap_is_planned_as_shard_map():
    assert dense("pmap").parallel == ParallelConfig(mode="shard_map", num_devices=2)


def test_shapes_are_those_of_the_data(tmp_path):
    dataset = load_dataset(DataConfig())
    assert shapes_of(DataConfig()).image == dataset.train.load(0, None)[0].shape
    assert shapes_of(DataConfig()).num_classes == dataset.num_classes
    folder = functools.partial(DataConfig, name="image_folder", image_size=32)
    lost = shapes_of(folder(path="lost"))
    assert lost[:2] == ((32, 32, 3), IMAGENET)
    assert (
        "`lost` does not tell the number of classes: 1000 are assumed" in lost.notes[0]
    )
    assert shapes_of(folder(path="lost"), 7) == ((32, 32, 3), 7, ())
    for name in ("cat", "dog", "emu", ".hidden", "__MACOSX"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.png").touch()
    (tmp_path / "train" / "empty").mkdir()
    assert shapes_of(folder(path=str(tmp_path))) == ((32, 32, 3), 3, ())
    tfds = functools.partial(DataConfig, name="tfds", path="lost")
    assert shapes_of(tfds(image_size=32)).image == (32, 32, 3)
    with pytest.raises(UserError, match=r"give data\.image_size, and the images need"):
        shapes_of(tfds())


def test_shapes_of_smaller_images():
    config = DataConfig(downsample=2)
    shape = load_dataset(config).train.load(0, None)[0].shape
    assert shapes_of(config).image == shape == (4, 4, 1)
    assert error_of(lambda: shapes_of(DataConfig(downsample=3))) == (
        "`data.downsample` must be a divisor of height and width, 8 and 8, got 3."
    )


@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_the_step_has_the_collectives_of_its_norm(mode):
    """Statistics of both layers, forward and backward, and the gradient."""
    config = dense(mode)
    steps = training.steps(CPUS, config, SHAPES)
    ours, flax = (training.compiled(CPUS, step) for step in steps)
    params = sum(a.size for a in jax.tree.leaves(_state(config).params))
    for costs in (ours, flax):
        num, size = costs.collectives["all-reduce"]
        assert num >= 4 and size > 4 * params
        assert costs.peak == costs.arguments + costs.outputs + costs.temp
        assert costs.cycles is None and costs.traffic > costs.arguments
    assert ours.arguments == flax.arguments
    assert ours.collectives != flax.collectives


def test_the_norm_of_flax_does_the_same():
    """With a mask, which it wants in another shape: loss and statistics agree."""
    config = dense(num_empty=8)
    dataset = load_dataset(config.data)
    image = np.stack([dataset.train.load(k, None)[0] for k in range(64)])
    label, mask = np.arange(64, dtype=np.int32) % 10, np.arange(64) < 56
    batch = jax.device_put(Batch(image, label, mask))
    found = []
    for step in training.steps(CPUS, config, SHAPES):
        assert jax.tree.map(np.shape, batch) == jax.tree.map(
            np.shape, step.arguments[1]
        )
        state = init_state(step.alone, image[:2], np.uint32(0))
        new, scores = train_step(step.alone, state, batch)
        found.append((new.batch_stats, scores))
    assert len(found) == 2
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), *found
    )


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"norm": NormConfig(kind="group")}, "norm.kind is group"),
        ({"norm": NormConfig(virtual_batch_size=32)}, "Flax's norm has no statistics"),
        ({"norm": NormConfig(debias=True)}, "Flax's norm has no norm.debias"),
        ({"norm": NormConfig(unbiased=True)}, "Flax's norm has no norm.unbiased"),
        (
            {"optimizer": OptimizerConfig(accumulate_steps=2)},
            "Flax's norm moves its statistics at each batch, not at each update",
        ),
    ],
)
def test_no_column_where_flax_does_not_the_same(more, reason):
    config = dense(**more)
    assert training.why_without_flax(config).startswith(reason)
    (step,) = training.steps(CPUS, config, SHAPES)
    assert step.norm == training.OURS


def test_operations_are_those_of_one_device():
    """Of a dense network: two for each product, forward and for both gradients."""
    step = next(training.steps(CPUS, dense(), SHAPES))
    kernels = [a.size for a in jax.tree.leaves(_state(dense()).params) if a.ndim == 2]
    products = 64 / 2 * 2 * (3 * sum(kernels) - kernels[0])
    assert products < training.flops_of(step) < 2 * products


def _state(config):
    step = next(training.steps(CPUS, config, SHAPES))
    return step.arguments[0]


COSTS = Costs(4, 3, 2 * 10**6, 2 * 10**6 + 7, 10**6, 50, {"all-reduce": (2, 100)})


def test_the_table():
    other = COSTS._replace(cycles=100, collectives={"all-gather": (1, 8)})
    table = table_of(CPUS, dense(), {"jaxbn": COSTS, "Flax": other}, {})
    rows = {name: cells for name, *cells in table.rows}
    assert table.header == ["on each device", "jaxbn", "Flax", "jaxbn / Flax"]
    assert rows["memory"] == ["2.0 MB", "2.0 MB", "1.000"]
    assert rows["  of 1.0 MB"] == ["200.0%, too large"] * 2 + ["1.000"]
    assert rows["estimated cycles"] == ["50", "100", "0.500"]
    assert rows["all-reduces"] == ["2", "-", "-"]
    assert rows["all-gather bytes"] == ["-", "8 bytes", "-"]
    assert "Predictions from what jax compiles, not measurements." in table.note


def test_the_table_of_a_gpu_has_a_roofline():
    card = CARDS["h100"]
    gpu = CPUS._replace(platform="cuda", card=card)
    costs = COSTS._replace(cycles=None, traffic=card.bandwidth / 100)
    flops = {"jaxbn": 1e12, "Flax": card.flops["float32"] / 10}
    table = table_of(gpu, dense(), {"jaxbn": costs, "Flax": costs}, flops)
    rows = {name: cells for name, *cells in table.rows}
    assert rows["time by memory"] == ["10 ms", "10 ms", "1.000"]
    assert rows["time by arithmetic"] == ["2.021 ms", "100 ms", "0.020"]
    assert "3.35 TB/s" in table.note and "494.7 TFLOP/s" in table.note
    assert "estimated cycles" not in rows


def test_a_program_that_does_not_fit():
    text = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the "
        "total memory required for HLO temporaries (512.00G) exceeds available HBM "
        "(15.75G). HLO module: jit__lambda."
    )
    found = too_large(text)
    assert found == TooLarge(512 * 2**30, int(15.75 * 2**30))
    assert too_large("INTERNAL: no") is None
    table = table_of(CPUS, dense(), {"jaxbn": found}, {})
    assert table.rows == [
        ["memory", "549.8 GB"],
        ["  of 16.9 GB", "3250.8%, too large"],
    ]


def test_a_scan_costs_what_its_layers_do():
    """A forward and a backward all-reduce, one of the gradient; and three products."""
    counts = {}
    for depth in (3, 300):
        step = next(training.steps(CPUS, plain(depth), SHAPES))
        costs = training.compiled(CPUS, step)
        num, size = costs.collectives["all-reduce"]
        counts[depth] = np.array([num, size, costs.traffic, training.flops_of(step)])
    num, size, traffic, flops = (counts[300] - counts[3]) / 297
    params = 32 * 32 + 3 * 32  # of kernel, bias, scale and bias again
    products = 64 / 2 * 2 * 3 * 32 * 32
    assert 3 <= num <= 6 and 4 * params < size < 4 * (params + 10 * 32)
    assert products < flops < 1.2 * products
    # Two dozen kernels, which do not read all layers in each turn.
    assert 24 * 4 * 32 * 32 < traffic < 297 * 4 * params


def plain(depth):
    return dense(model=ModelConfig(name="plain", depth=depth))


LOOPS = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%slice (whole: f32[9,4], turn: s32[]) -> f32[1,4] {
  %whole = f32[9,4]{1,0} parameter(0)
  %turn = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %part = f32[1,4]{1,0} dynamic-slice(%whole, %turn, %zero)
}

%inner (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %v = f32[4]{0} get-tuple-element(%p), index=1
  %r = f32[4]{0} all-reduce(%v), to_apply=%add, backend_config={EACH}
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %r)
}

%below (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %most = s32[] constant(MOST)
  ROOT %c = pred[] compare(%i, %most), direction=DIRECTION
}

%outer (q: (s32[], f32[9,4], f32[9,4])) -> (s32[], f32[9,4], f32[9,4]) {
  %q = (s32[], f32[9,4]{1,0}, f32[9,4]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %all = f32[9,4]{1,0} get-tuple-element(%q), index=1
  %out = f32[9,4]{1,0} get-tuple-element(%q), index=2
  %part = f32[1,4]{1,0} fusion(%all, %j), kind=kLoop, calls=%slice
  %b = f32[4]{0} bitcast(%part)
  %start = (s32[], f32[4]{0}) tuple(%j, %b)
  %w = (s32[], f32[4]{0}) while(%start), condition=%below, body=%inner
  %zero = s32[] constant(0)
  %out2 = f32[9,4]{1,0} dynamic-update-slice(%out, %part, %j, %zero)
  ROOT %t = (s32[], f32[9,4]{1,0}, f32[9,4]{1,0}) tuple(%j, %all, %out2)
}

%other (q: (s32[], f32[9,4], f32[9,4])) -> pred[] {
  %q = (s32[], f32[9,4]{1,0}, f32[9,4]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (all: f32[9,4], out: f32[9,4]) -> f32[9,4] {
  %all = f32[9,4]{1,0} parameter(0)
  %out = f32[9,4]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[9,4]{1,0}, f32[9,4]{1,0}) tuple(%zero, %all, %out)
  %w = (s32[], f32[9,4]{1,0}, f32[9,4]{1,0}) while(%start), NINE_TURNS
  ROOT %r = f32[9,4]{1,0} get-tuple-element(%w), index=2
}
"""
NINE_TURNS = (
    'condition=%other, body=%outer, backend_config={"known_trip_count":{"n":"9"}}'
)
EACH = '"estimated_cycles":"100"'


@pytest.mark.parametrize(
    ("most", "direction", "turns"), [(5, "LT", 5), (3, "GT", 0)], ids=["scan", "idle"]
)
def test_loops_count_as_often_as_they_turn(most, direction, turns):
    """One of nine turns around another, which tells of them only by its condition."""
    text = LOOPS.replace("NINE_TURNS", NINE_TURNS).replace("EACH", EACH)
    text = text.replace("MOST", str(most)).replace("DIRECTION", direction)
    assert hlo.cycles(text) == 9 * turns * 100
    expected = {"all-reduce": (9 * turns, 9 * turns * 16)} if turns else {}
    assert collectives_of(text) == expected
    # A slice of 16 bytes is read and written, and then read and written again; each
    # index has 4 bytes.
    compared = 4 + 4 + 1
    around, within = (16 + 4 + 16) + (16 + 16 + 4 + 4), 16 + 16 + compared
    assert hlo.traffic(text) == 9 * (around + turns * within)
    assert hlo.traffic(text, turns=1) == around + within
    assert hlo.traffic(text, turns=0) == 0


def test_arrays_of_a_tpu_are_stored_in_tiles():
    assert hlo.stored_bytes("f32[3,32]{1,0:T(4,128)}") == 4 * 128 * 4
    assert hlo.stored_bytes("bf16[9,8,3]{1,2,0:T(8,128)(2,1)S(1)}") == 9 * 8 * 128 * 2
    assert hlo.stored_bytes("(f32[32]{0:T(128)}, s32[])") == 128 * 4 + 4
    assert hlo.stored_bytes("(f32[3,32]{1,0}, pred[5])") == 3 * 32 * 4 + 5


def test_collectives_count_what_a_device_gives():
    """The results of a gather, and of what only starts, are more than that."""
    text = """
ENTRY %main (p: f32[4]) -> f32[8] {
  %p = f32[4]{0} parameter(0)
  %b = bf16[2,3]{1,0} parameter(1)
  %s = (f32[4]{0}, f32[8]{0}) all-gather-start(%p), dimensions={0}
  %d = f32[8]{0} all-gather-done(%s)
  %r = (f32[4]{0}, bf16[2,3]{1,0}) all-reduce(%p, %b), to_apply=%add
}
"""
    assert collectives_of(text) == {"all-gather": (1, 16), "all-reduce": (1, 28)}
    assert hlo.num_bytes("(f32[4]{0}, bf16[2,3]{1,0}, pred[])") == 16 + 12 + 1
