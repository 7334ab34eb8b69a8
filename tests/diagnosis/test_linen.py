# SPDX-License-Identifier: Apache-2.0
"""One planted fault a check is found, by its layer; a healthy net has no alarm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbn.linen
from jaxbn import population
from tests import shards
from tests.diagnosis.nets import LinenNet, diagnosed, healthy, make_batches
from tests.layers import Slash

pytestmark = pytest.mark.usefixtures("as_users_run_it")
NORMS = {"jaxbn": jaxbn.linen.BatchNorm, "flax": nn.BatchNorm}


def stats_of(variables, layer="norm1"):
    return variables["batch_stats"][layer]


def alarms(diagnosis):
    return [(f.level, f.layer, f.check) for f in diagnosis.alarms]


@pytest.fixture(params=NORMS)
def norm(request):
    return NORMS[request.param]


def test_a_healthy_net_has_no_alarm(norm):
    diagnosis = diagnosed(healthy(), net=LinenNet(norm))
    assert not diagnosis.findings, str(diagnosis)
    assert diagnosis.skipped == ("weight decay: needs `decay_mask`",)
    assert [layer.path for layer in diagnosis.layers] == ["norm0", "norm1", "norm2"]
    assert all(layer.num_values == 64 for layer in diagnosis.layers)


GAPS = [
    lambda s: s | {"var": 4 * s["var"]},
    lambda s: s | {"var": s["var"] / 4},
    lambda s: s | {"mean": s["mean"] + 2 * jnp.sqrt(s["var"])},
]


@pytest.mark.parametrize("plant", GAPS)
def test_gap(norm, plant):
    variables = healthy()
    variables["batch_stats"]["norm1"] = plant(stats_of(variables))
    diagnosis = diagnosed(variables, net=LinenNet(norm))
    assert alarms(diagnosis) == [("warning", "norm1", "train/eval gap")]
    (finding,) = diagnosis.alarms
    assert "median over the features in deviations of one batch" in finding.figure
    assert finding.fix.startswith("variables, _ = population.estimate_linen(")


def test_the_fix_of_a_gap_leaves_none():
    variables = healthy()
    for plant in GAPS:
        variables["batch_stats"]["norm1"] = plant(stats_of(variables))

    def apply(variables, x):
        return LinenNet().apply(variables, x, mutable=["batch_stats"])

    fixed, _ = population.estimate_linen(apply, variables, make_batches())
    assert not diagnosed(fixed).alarms


def test_a_name_with_a_slash(rng):
    """Its statistics and parameters are found; an empty place is none."""
    x = jnp.asarray(rng.normal(size=(8, 32, 3)), jnp.float32)
    variables = Slash().init(jax.random.key(0), x[0])
    variables["params"]["a/b"]["scale"] *= 0
    variables["batch_stats"]["empty"] = {}

    def apply(variables, x):
        return Slash().apply(variables, x, mutable=["batch_stats"])

    mask = {"a/b": {"scale": True, "bias": False}}
    diagnosis = jaxbn.linen.diagnose(apply, variables, list(x), decay_mask=mask)
    assert [layer.path for layer in diagnosis.layers] == ["a/b"]
    checks = {finding.check for finding in diagnosis.findings}
    assert checks == {"statistics", "weight decay", "scale near 0"}


def test_the_test_knows_the_size_of_the_sample():
    """The same gap, in batches of 8 and of 512."""
    variables = healthy()
    stats_of(variables)["var"] *= 1.5
    assert not [
        f for f in diagnosed(variables, make_batches(size=8)).alarms if "gap" in f.check
    ]
    assert alarms(diagnosed(variables, make_batches(size=512))) == [
        ("warning", "norm1", "train/eval gap")
    ]


@pytest.mark.parametrize(
    ("number", "size"), [(1, 16), (1, 512), (2, 512), (5, 64), (12, 16), (12, 64)]
)
def test_no_alarm_whatever_the_batches(number, size):
    """The same batch over and over, too: it has no noise."""
    variables = healthy()
    assert not diagnosed(variables, make_batches(number, size, seed=7)).alarms
    assert not diagnosed(variables, make_batches(1, size, seed=7) * number).alarms


def test_momentum():
    diagnosis = diagnosed(healthy(), steps=20)
    assert alarms(diagnosis) == [("warning", f"norm{k}", "momentum") for k in range(3)]
    finding = diagnosis.alarms[0]
    assert (
        "momentum 0.9 after 20 steps" in finding.figure and "12.2 %" in finding.figure
    )
    assert finding.fix == "BatchNorm(debias=True)  # or momentum=0.794"
    assert not diagnosed(healthy(), steps=44).alarms  # 0.9^44 = 0.97 %
    assert diagnosed(healthy(), steps=43).alarms


class Around(nn.BatchNorm):
    """A subclass with code around Flax's arithmetic, and a parameter."""

    @nn.compact
    def __call__(self, x, use_running_average=None):
        y = super().__call__(x, use_running_average)
        return y * self.param("gain", nn.initializers.ones, ())


class Instead(nn.BatchNorm):
    """A subclass with arithmetic of its own."""

    @nn.compact
    def __call__(self, x):
        for name in ("mean", "var"):
            self.variable("batch_stats", name, jnp.ones, x.shape[-1:])
        return x - jnp.mean(x, 0, keepdims=True)


def test_a_subclass_is_measured():
    variables = healthy()
    for k in range(3):
        variables["params"][f"norm{k}"]["gain"] = jnp.ones(())
    stats_of(variables)["var"] *= 4
    diagnosis = diagnosed(variables, net=LinenNet(Around), steps=20)
    assert ("warning", "norm1", "train/eval gap") in alarms(diagnosis)
    momenta = [f for f in diagnosis.alarms if f.check == "momentum"]
    assert [f.layer for f in momenta] == ["norm0", "norm1", "norm2"]
    assert all(f.fix.startswith("from jaxbn.linen import") for f in momenta)


def test_a_subclass_with_its_own_arithmetic_is_named_as_not_measured():
    net = nn.Sequential([Instead(), jaxbn.linen.BatchNorm(use_running_average=False)])
    batches = make_batches()
    variables = net.init(jax.random.key(0), batches[0])

    def apply(variables, x):
        return net.apply(variables, x, mutable=["batch_stats"])

    skipped = jaxbn.linen.diagnose(apply, variables, batches).skipped
    (reason,) = (r for r in skipped if r.startswith("`layers_0`:"))
    assert "does not call `super().__call__`" in reason


def test_a_norm_of_flax_that_runs_twice():
    class Twice(nn.Module):
        def setup(self):
            self.norm = nn.BatchNorm(use_running_average=False, momentum=0.5)

        def __call__(self, x):
            return self.norm(2 * self.norm(x))

    net, batches = Twice(), make_batches()
    variables = net.init(jax.random.key(0), batches[0])

    def apply(variables, x):
        return net.apply(variables, x, mutable=["batch_stats"])

    for x in batches:
        variables |= apply(variables, x)[1]
    (layer,) = jaxbn.linen.diagnose(apply, variables, batches).layers
    assert layer.path == "norm" and layer.num_values == 64


def test_momentum_that_forgets_the_start():
    norm = jaxbn.linen.BatchNorm(use_running_average=False, debias=True)
    batches = make_batches()
    variables = norm.init(jax.random.key(0), batches[0])

    def apply(variables, x):
        return norm.apply(variables, x, mutable=["batch_stats"])

    for x in batches:
        variables |= apply(variables, x)[1]
    assert not jaxbn.linen.diagnose(apply, variables, batches, steps=8).alarms


def test_batch_size():
    diagnosis = diagnosed(healthy(), make_batches(size=6))
    assert alarms(diagnosis) == [
        ("warning", f"norm{k}", "batch size") for k in range(3)
    ]
    assert "6 values" in diagnosis.alarms[0].figure
    assert "63 %" in diagnosis.alarms[0].figure  # sqrt(2 / 5)
    assert not diagnosed(healthy(), make_batches(size=8)).alarms


def test_batch_size_of_virtual_batches():
    norm = jaxbn.linen.BatchNorm(use_running_average=False, virtual_batch_size=4)
    batches = make_batches()
    variables = norm.init(jax.random.key(0), batches[0])

    def apply(variables, x):
        return norm.apply(variables, x, mutable=["batch_stats"])

    variables, _ = population.estimate_linen(apply, variables, batches)
    (finding,) = jaxbn.linen.diagnose(apply, variables, batches).alarms
    assert finding.check == "batch size" and finding.figure.startswith("4 values")


@pytest.mark.parametrize(("dtype", "ratio", "found"), [
    ("float32", 3e3, True), ("float32", 300, False),
    ("bfloat16", 300, True), ("bfloat16", 30, False),
])  # fmt: skip
def test_mean_over_sd(dtype, ratio, found):
    variables = healthy()
    stats = stats_of(variables)
    shift = ratio * jnp.sqrt(stats["var"])
    for k in range(3):
        zeros = jnp.zeros_like(stats_of(variables, f"norm{k}")["mean"])
        variables["params"][f"dense{k}"]["bias"] = zeros
    variables["params"]["dense1"]["bias"] = shift
    stats["mean"] += shift
    net = LinenNet(use_bias=True, dtype=dtype)

    def apply(variables, x):
        return net.apply(variables, x, mutable=["batch_stats"])

    variables, _ = population.estimate_linen(apply, variables, make_batches())
    diagnosis = diagnosed(variables, net=net)
    if found:
        assert ("warning", "norm1", "mean/sd") in alarms(diagnosis), str(diagnosis)
        assert {f.layer for f in diagnosis.alarms} == {"norm1"}
        assert dtype in diagnosis.alarms[0].figure
    else:
        assert not diagnosis.alarms, str(diagnosis)


@pytest.mark.parametrize(("plant", "figure"), [
    (lambda s: {"mean": s["mean"].at[3].set(jnp.nan)}, "1 of 12 features"),
    (lambda s: {"var": s["var"].at[3].set(jnp.inf)}, "NaN or infinite"),
    (lambda s: {"var": s["var"].at[5].set(-0.1)}, "negative (-0.1)"),
    (lambda s: {k: jnp.full_like(v, k == "var") for k, v in s.items()}, "0 and 1"),
])  # fmt: skip
def test_statistics(norm, plant, figure):
    variables = healthy()
    variables["batch_stats"]["norm1"] |= plant(stats_of(variables))
    diagnosis = diagnosed(variables, net=LinenNet(norm))
    assert alarms(diagnosis) == [("error", "norm1", "statistics")]
    assert figure in diagnosis.alarms[0].figure
    assert "population.estimate_linen" in diagnosis.alarms[0].fix


def test_input_that_is_not_finite():
    """The batches are finite: a layer overflows."""
    variables = healthy()
    variables["params"]["dense2"]["kernel"] *= 3e38
    diagnosis = diagnosed(variables)
    assert alarms(diagnosis) == [("error", "norm2", "input")]
    assert "in 8 batches (0, 1, 2, 3, 4, ...)" in diagnosis.alarms[0].figure


@pytest.mark.parametrize("name", ["mean", "var", "scale"])
def test_replicas(name):
    """A statistic that is called replicated, and is not the same on each device."""
    variables = healthy()
    place = NamedSharding(shards.mesh(), P())
    variables = jax.device_put(variables, place)
    assert not diagnosed(variables).alarms
    tree = variables["params" if name == "scale" else "batch_stats"]["norm1"]
    parts = [
        jax.device_put(tree[name] + 0.25 * (k == 2), device)
        for k, device in enumerate(place.mesh.devices.flat)
    ]
    tree[name] = jax.make_array_from_single_device_arrays(
        tree[name].shape, place, parts
    )
    diagnosis = diagnosed(variables)
    assert ("error", "norm1", "replicas") in alarms(diagnosis)
    assert {f.layer for f in diagnosis.alarms} == {"norm1"}
    assert f"`{name}` of 1 of 4 devices" in diagnosis.alarms[0].figure
    assert "0.25" in diagnosis.alarms[0].figure


def test_neighbours(norm):
    diagnosis = diagnosed(healthy(), net=LinenNet(norm, always=1))
    assert alarms(diagnosis) == [("error", "norm1", "neighbours")]
    assert diagnosis.alarms[0].fix == "BatchNorm(use_running_average=not train)"


def test_neighbours_of_another_layer_are_no_alarm():
    net = LinenNet()

    def infer(variables, x):
        return net.apply(variables, x, train=False) - jnp.mean(x)

    diagnosis = diagnosed(healthy(), infer=infer)
    assert not diagnosis.alarms
    assert [(f.layer, f.check) for f in diagnosis.findings] == [(".", "neighbours")]


def test_information():
    """Common and contested practice, each found by its layer, and no alarm."""
    variables = healthy()
    variables["params"]["norm2"]["scale"] = jnp.zeros(8)
    for k, width in enumerate((16, 12, 8)):
        variables["params"][f"dense{k}"]["bias"] = jnp.zeros(width)
    variables["params"]["dense2"]["kernel"] *= jnp.arange(8) > 0
    stats = stats_of(variables, "norm2")
    variables["batch_stats"]["norm2"] = {k: v.at[0].set(0) for k, v in stats.items()}
    mask = jax.tree.map(lambda _: False, variables["params"])
    mask["norm0"]["scale"] = True
    net = LinenNet(use_bias=True, dropout=0.1)
    diagnosis = diagnosed(variables, net=net, decay_mask=mask)
    assert not diagnosis.alarms, str(diagnosis)
    found = {(f.layer, f.check): f.figure for f in diagnosis.findings}
    assert found == {
        (
            "norm0",
            "bias before",
        ): "`dense0` adds a bias that this layer subtracts again",
        (
            "norm1",
            "bias before",
        ): "`dense1` adds a bias that this layer subtracts again",
        (
            "norm2",
            "bias before",
        ): "`dense2` adds a bias that this layer subtracts again",
        ("norm0", "weight decay"): "weight decay acts on scale",
        ("norm1", "dropout before"): "`dropout` runs before it",
        ("norm2", "dropout before"): "`dropout` runs before it",
        ("norm2", "variance under epsilon"): (
            "the running variance of 1 of 8 features (the first: 0) is below epsilon, "
            "1e-05 (the least is 0)"
        ),
        ("norm2", "scale near 0"): (
            "|scale| of 8 of 8 features (the first: 0) is below 0.001"
        ),
    }
    assert not diagnosis.skipped


@pytest.mark.parametrize(
    "mask", [True, lambda params: jax.tree.map(lambda p: p.ndim > 0, params)]
)
def test_decay_mask_as_optax_takes_it(mask):
    found = diagnosed(healthy(), decay_mask=mask).findings
    assert {f.layer for f in found} == {"norm0", "norm1", "norm2"}
    assert {f.figure for f in found} == {"weight decay acts on scale and bias"}


class Lite(nn.Module):
    """As EfficientNet-Lite0: depthwise and 1x1, an epsilon of 1e-3."""

    norm: type

    @nn.compact
    def __call__(self, x, train=True):
        for k, (features, stride) in enumerate([(16, 2), (32, 2), (48, 1)]):
            for kind, window, groups in (("depth", 3, x.shape[-1]), ("point", 1, 1)):
                size = features if kind == "point" else x.shape[-1]
                x = nn.Conv(
                    size,
                    (window, window),
                    strides=stride if kind == "depth" else 1,
                    feature_group_count=groups,
                    use_bias=False,
                    name=f"{kind}{k}",
                )(x)
                x = self.norm(
                    use_running_average=not train, epsilon=1e-3, name=f"{kind}_norm{k}"
                )(x)
                x = jnp.clip(x, 0, 6)
        return x.mean((1, 2))


@pytest.fixture(scope="module")
def lite():
    """Pictures that differ, and variables with dead channels and negative scales."""
    rng = np.random.default_rng(0)
    light = rng.uniform(0.2, 2, (200, 1, 1, 3))
    pictures = jnp.asarray(light * rng.standard_gamma(1, (200, 24, 24, 3)), jnp.float32)
    net = Lite(jaxbn.linen.BatchNorm)
    variables = jax.jit(net.init)(jax.random.key(0), pictures[:2])
    for name, layer in variables["params"].items():
        if name.startswith("point"):
            key = "kernel" if "norm" not in name else "scale"
            layer[key] = layer[key].at[..., ::5].multiply(0 if key == "kernel" else -1)
    variables, _ = population.estimate_linen(
        lambda v, x: net.apply(v, x, mutable=["batch_stats"]),
        variables,
        list(pictures[:160].reshape(10, 16, 24, 24, 3)),
    )
    stats = jax.tree.map(np.asarray, variables["batch_stats"])
    assert sum(np.sum(layer["var"] == 0) for layer in stats.values()) > 20
    return pictures[160:], variables


@pytest.mark.parametrize("size", [1, 7])
def test_dead_channels_of_a_trained_net_are_no_alarm(norm, size, lite):
    """Channels of variance 0, negative scales, pictures that differ, one a batch."""
    pictures, variables = lite
    net = Lite(norm)

    def apply(variables, x):
        return net.apply(variables, x, mutable=["batch_stats"])

    batches = [pictures[k * size :][:size] for k in range(5)]
    infer = lambda variables, x: net.apply(variables, x, train=False)  # noqa: E731
    diagnosis = jaxbn.linen.diagnose(apply, variables, batches, infer=infer)
    assert not diagnosis.alarms, str(diagnosis)


def test_layers_stacked_by_scan():
    """Each is a layer, and the one with the fault is named."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            x = nn.Dense(5, use_bias=False)(x)
            return jaxbn.linen.BatchNorm(use_running_average=False)(x), None

    stack = nn.scan(
        nn.remat(Block),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        length=3,
    )()
    batches = make_batches()
    variables = stack.init(jax.random.key(0), batches[0], None)

    def apply(variables, x):
        return stack.apply(variables, x, None, mutable=["batch_stats"])

    variables, _ = population.estimate_linen(apply, variables, batches)
    assert not jaxbn.linen.diagnose(apply, variables, batches).alarms
    stats = variables["batch_stats"]["BatchNorm_0"]
    stats["var"] = stats["var"].at[1].multiply(9)
    diagnosis = jaxbn.linen.diagnose(apply, variables, batches)
    assert alarms(diagnosis) == [("warning", "BatchNorm_0[1]", "train/eval gap")]


def test_compiled_functions_are_observed_again():
    """Functions that are already compiled: the second diagnosis says the same."""
    net = LinenNet(always=1)

    @jax.jit
    def apply(variables, x):
        return net.apply(variables, x, mutable=["batch_stats"])

    @jax.jit
    def infer(variables, x):
        return net.apply(variables, x, train=False, mutable=["batch_stats"])[0]

    variables, batches = healthy(), make_batches()
    texts = {
        str(jaxbn.linen.diagnose(apply, variables, batches, infer=infer, steps=9))
        for _ in range(2)
    }
    assert len(texts) == 1 and "`norm1`: neighbours" in texts.pop()


@pytest.mark.parametrize("how", ["shard_map", "pmap"])
def test_over_devices(how):
    """Synchronised: the values of all devices count."""
    norm = jaxbn.linen.BatchNorm(use_running_average=False, axis_name="i")
    batches = make_batches()
    variables = norm.init(jax.random.key(0), batches[0])

    def apply(variables, x):
        return norm.apply(variables, x, mutable=["batch_stats"])

    if how == "shard_map":
        apply = jax.shard_map(
            apply, mesh=shards.mesh(), in_specs=(P(), P("i")), out_specs=(P("i"), P())
        )
        batches = [
            jax.device_put(b, NamedSharding(shards.mesh(), P("i"))) for b in batches
        ]
    else:
        apply = jax.pmap(apply, axis_name="i")
        variables = jax.tree.map(lambda a: jnp.stack([a] * 4), variables)
        batches = [b.reshape(4, 16, 5) for b in batches]
    variables, _ = population.estimate_linen(apply, variables, batches)
    diagnosis = jaxbn.linen.diagnose(apply, variables, batches)
    assert not diagnosis.alarms, str(diagnosis)
    assert {layer.num_values for layer in diagnosis.layers} == {64}


def test_frozen_layers_are_not_measured():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = jaxbn.linen.BatchNorm(use_running_average=True, name="frozen")(x)
            return jaxbn.linen.BatchNorm(use_running_average=False, name="norm")(x)

    batches = make_batches()
    variables = Net().init(jax.random.key(0), batches[0])
    for _ in range(2):
        variables["batch_stats"]["frozen"]["mean"] += 1

    def apply(variables, x):
        return Net().apply(variables, x, mutable=["batch_stats"])

    variables, _ = population.estimate_linen(apply, variables, batches)
    diagnosis = jaxbn.linen.diagnose(apply, variables, batches)
    assert not diagnosis.alarms
    assert any(
        reason.startswith("`frozen`: no moments") for reason in diagnosis.skipped
    )
    assert diagnosis.layers[0].num_values is None
