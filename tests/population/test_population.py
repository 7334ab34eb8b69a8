# SPDX-License-Identifier: Apache-2.0
"""Population statistics: exactly those of all examples, for Linen and for NNX."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
from jaxbn import population
from tests.population.nets import (
    ESTIMATES,
    LinenNet,
    expected,
    inputs,
    make_batches,
    start,
)

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture(params=ESTIMATES)
def estimate(request):
    return functools.partial(ESTIMATES[request.param], progress=False)


@pytest.fixture
def batches(rng):
    return make_batches(rng)


def check(variables, stats, *, but=()):
    """Each layer's, to rounding in float32; the others are those of the variables."""
    for path, pair in variables["batch_stats"].items():
        if path in but:
            chex.assert_trees_all_equal(pair, start()["batch_stats"][path])
            continue
        scale = np.abs(stats[path]["mean"]) + np.sqrt(stats[path]["var"])
        chex.assert_type([pair["mean"], pair["var"]], jnp.float32)
        off = np.abs(pair["mean"] - stats[path]["mean"]) / scale
        assert np.max(off) < 2e-6, path
        np.testing.assert_allclose(pair["var"], stats[path]["var"], rtol=2e-5)


@pytest.mark.parametrize("layerwise", [False, True])
def test_is_of_all_examples_at_once(estimate, batches, layerwise):
    variables = start()
    new, report = estimate(variables, batches, layerwise=layerwise)
    check(new, expected(variables, batches, layerwise=layerwise))
    chex.assert_trees_all_equal(new["params"], variables["params"])
    norms = ("norm0", "norm1", "norm2")
    passes = 3 if layerwise else 1
    assert report == population.PopulationReport(norms, (), (), 5, passes)


def test_one_pass_is_not_exact_for_deep_layers(batches):
    """What `layerwise` is for: the second layer sees how batches are cut."""
    one, all_ = (expected(start(), batches, layerwise=k) for k in (False, True))
    np.testing.assert_allclose(one["norm0"]["var"], all_["norm0"]["var"])
    assert np.max(np.abs(one["norm1"]["var"] / all_["norm1"]["var"] - 1)) > 0.1


def test_layerwise_stops_where_nothing_moves(estimate, batches):
    variables, _ = estimate(start(), batches, layerwise=True)
    again, report = estimate(variables, batches, layerwise=True)
    assert report.num_passes == 1
    check(again, expected(variables, batches, layerwise=True))


@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize("why", ["frozen", "skipped"])
def test_layers_that_do_not_run_keep_theirs(estimate, batches, why, layerwise):
    """fvcore overwrites those that do not run with zeros."""
    new, report = estimate(start(), batches, layerwise=layerwise, **{why: 2})
    assert report.kept == ("norm2",)
    assert report.estimated == ("norm0", "norm1")
    check(new, expected(start(), batches, layerwise=layerwise), but=["norm2"])


def test_of_averaged_weights(estimate, batches, rng):
    """Those of the average, which no average of statistics is."""
    one = start()
    other = jax.tree.map(lambda a: a + 0.3 * rng.normal(size=a.shape), one)
    mean = jax.tree.map(lambda a, b: (0.9 * a + 0.1 * b).astype("f4"), one, other)
    new, _ = estimate({**one, "params": mean["params"]}, batches, layerwise=True)
    check(new, expected(mean, batches, layerwise=True))


def test_large_mean_and_many_batches(estimate, rng):
    """Merged in float64: nothing is lost but to the rounding of the batches' means."""
    batches = [
        ((1e4 + rng.normal(0, 1, (8, 3))).astype(np.float32), None) for _ in range(300)
    ]
    variables = jax.tree.map(jnp.ones_like, start())
    kernel = {"kernel": jnp.eye(3, 6), "bias": jnp.zeros(6)}
    variables["params"]["dense0"] = kernel
    new, _ = estimate(variables, batches)
    x = np.concatenate([x for x, _ in batches]).astype(np.float64)
    stats = new["batch_stats"]["norm0"]
    np.testing.assert_allclose(stats["mean"][:3], x.mean(0), rtol=1e-7)
    of_batches = np.mean([b for b, _ in batches], 1, np.float64)
    rounding = np.spacing(np.float32(1e4)) / 2
    tolerance = 2 * rounding * of_batches.std(0) + rounding**2
    assert np.all(np.abs(stats["var"][:3] - x.var(0)) < tolerance)
    np.testing.assert_array_equal(stats["var"][3:], 0)


@pytest.mark.parametrize("layerwise", [False, True])
def test_prior_count_mixes_by_examples(estimate, batches, layerwise):
    """Schneider et al. 2020, equation 2; of the first layer in both ways."""
    batches, variables = batches[:3], start()
    new, _ = estimate(variables, batches, prior_count=13.0, layerwise=layerwise)
    population_ = expected(variables, batches, layerwise=layerwise)["norm0"]
    source = variables["batch_stats"]["norm0"]
    n = 16 + 16 + 7
    for name in ("mean", "var"):
        mixed = (13 * source[name] + n * population_[name]) / (13 + n)
        got = new["batch_stats"]["norm0"][name]
        np.testing.assert_allclose(got, mixed, rtol=2e-6, atol=2e-6)


def test_what_is_not_finite_is_left_out_and_reported(estimate, batches):
    broken = batches[0][0].copy()
    broken[3, 1] = np.inf
    new, report = estimate(start(), [(broken, None), *batches])
    assert report.not_finite == ("norm0", "norm1", "norm2")
    check(new, expected(start(), batches, layerwise=False))


def test_nothing_that_counts_is_no_layer_estimated(estimate, batches):
    x, _ = batches[0]
    with pytest.raises(ValueError, match="the model must be run as in training"):
        estimate(start(), [(x, np.zeros(16, bool))])


def test_renorm_is_measured_uncorrected(estimate, batches):
    new, _ = estimate(start(), batches, norm="BatchRenorm")
    first = expected(start(), batches, layerwise=False)["norm0"]
    pair = new["batch_stats"]["norm0"]
    np.testing.assert_allclose(pair["var"], first["var"], rtol=2e-5)


def test_oracle_of_one_batch(batches):
    """The NumPy net against Linen's own training forward."""
    x, variables = batches[0][0], start()
    y, _ = LinenNet().apply(variables, x, mutable=["batch_stats"])
    last = inputs(variables, x)["norm2"]
    norm = variables["params"]["norm2"]
    z = (last - last.mean(0)) / np.sqrt(last.var(0) + 1e-5)
    np.testing.assert_allclose(
        y, np.maximum(z * norm["scale"] + norm["bias"], 0), atol=1e-5
    )


class OneOfFlax(nn.Module):
    """A net of two norms, of which the import of one was forgotten."""

    @nn.compact
    def __call__(self, x):
        x = jaxbn.linen.BatchNorm(use_running_average=False, name="ours")(x)
        return nn.BatchNorm(use_running_average=False, name="theirs")(nn.relu(x))


def test_says_which_norms_of_linen_are_those_of_flax(rng):
    net = OneOfFlax()
    x = jnp.asarray(rng.normal(3, 1, (2, 8, 4)), jnp.float32)
    variables = net.init(jax.random.key(0), x[0])

    def apply(variables, x):
        return net.apply(variables, x, mutable=["batch_stats"])

    for _ in range(2):  # the second time nothing is traced
        with pytest.warns(UserWarning, match="`theirs`: Flax's own batch norm, which"):
            new, report = population.estimate_linen(apply, variables, list(x))
        assert report.foreign == report.kept == ("theirs",)
        assert report.estimated == ("ours",)
    stats = new["batch_stats"]
    chex.assert_trees_all_equal(stats["theirs"], variables["batch_stats"]["theirs"])
    np.testing.assert_allclose(stats["ours"]["mean"], x.mean((0, 1)), rtol=1e-5)


def test_says_which_norms_of_nnx_are_those_of_flax(rng):
    x = jnp.asarray(rng.normal(3, 1, (2, 8, 4)), jnp.float32)
    model = nnx.Sequential(
        jaxbn.nnx.BatchNorm(4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    )
    with pytest.warns(UserWarning, match="`layers/1`: Flax's own batch norm, which"):
        report = population.estimate_nnx(lambda m, x: m(x), model, list(x))
    assert report.foreign == ("layers/1",) and report.estimated == ("layers/0",)


@pytest.mark.parametrize("tool", ["estimate", "diagnosis"])
def test_says_which_norms_of_nnx_are_in_a_linen_module(tool, rng):
    x = jnp.asarray(rng.normal(3, 1, (2, 8, 4)), jnp.float32)
    bridged = nnx.bridge.ToNNX(nn.BatchNorm(True), rngs=nnx.Rngs(0))
    bridged.lazy_init(x[0])
    model = nnx.Sequential(jaxbn.nnx.BatchNorm(4, rngs=nnx.Rngs(0)), bridged)
    text = f"`layers/1`: the batch norms in `BatchNorm` are out of reach.* the {tool};"
    with pytest.warns(UserWarning, match=text):
        if tool == "diagnosis":
            jaxbn.nnx.diagnose(model, list(x))
        else:
            population.estimate_nnx(lambda m, x: m(x), model, list(x))


@pytest.mark.parametrize("door", ["linen", "nnx"])
def test_a_layer_of_several_feature_axes_is_one(door, rng):
    x = jnp.asarray(rng.normal(3, 1, (2, 8, 3, 5)), jnp.float32)
    if door == "linen":
        norm = jaxbn.linen.BatchNorm(use_running_average=False, axis=(1, 2))
        variables = norm.init(jax.random.key(0), x[0])

        def apply(variables, x):
            return norm.apply(variables, x=x, mutable=["batch_stats"])

        _, report = population.estimate_linen(apply, variables, list(x), layerwise=True)
    else:
        norm = jaxbn.nnx.BatchNorm((3, 5), axis=(1, 2), rngs=nnx.Rngs(0))
        report = population.estimate_nnx(
            lambda m, x: m(x), norm, list(x), layerwise=True
        )
    assert report.num_passes == 1


class OutOfMemoryError(Exception):
    """What a device raises, and no fault of the batch's shape."""


def test_an_error_of_the_model_stays_what_it_is():
    """With a note that names the batch."""
    norm = jaxbn.linen.BatchNorm(use_running_average=False)
    batches = [jnp.ones((8, 3)), jnp.ones((5, 3))]
    variables = norm.init(jax.random.key(0), batches[0])

    def apply(variables, x):
        if len(x) == 5:
            raise OutOfMemoryError("no room for 5 GiB")
        return norm.apply(variables, x, mutable=["batch_stats"])

    with pytest.raises(OutOfMemoryError, match="no room for 5 GiB") as raised:
        population.estimate_linen(apply, variables, batches)
    assert raised.value.__notes__[-1] == (
        "This was batch 1 of shapes (5, 3); batch 0, of shapes (8, 3), went through "
        "the model."
    )
