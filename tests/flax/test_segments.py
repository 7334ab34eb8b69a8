# SPDX-License-Identifier: Apache-2.0
"""Layers with statistics of segments, and with scale and bias of each example."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
import jaxbn.population
from tests.layers import LAYERS, start

SEGMENTS, FEATURES = 3, 4
IDS = jnp.array([0, 2, 2, 0, 0, 2, 0, 2])  # none is in segment 1

BOTH = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


@pytest.fixture
def x(rng):
    x = rng.normal(size=(8, 5, FEATURES)) + 3 * np.asarray(IDS)[:, None, None]
    return jnp.asarray(x, jnp.float32)


def segmented(count=False, affine=True):
    """The variables before the first step, of all segments."""
    variables = start((SEGMENTS, FEATURES), count=count)
    return {**variables, "params": start(FEATURES, affine=affine)["params"]}


@BOTH
@pytest.mark.parametrize(
    "fields",
    [{}, {"momentum": None}, {"debias": True, "momentum": 0.5}, {"unbiased": True}],
    ids=str,
)
def test_each_segment_is_a_layer_alone(layer, x, fields):
    """With a mask that leaves all others out; an absent one keeps its statistics."""
    count = "debias" in fields or "momentum" in fields
    variables = segmented(count)
    apply = layer(FEATURES, num_segments=SEGMENTS, **fields)
    ys, new = apply(variables, x, segment_ids=IDS, use_running_average=False)
    _, new = apply(new, x, segment_ids=IDS, use_running_average=False)
    z, _ = apply(new, x, segment_ids=IDS, use_running_average=True)
    alone = layer(FEATURES, **fields)
    for segment in range(SEGMENTS):
        here = segment == IDS
        one = start(FEATURES, count=count)
        y, one = alone(one, x, mask=here, use_running_average=False)
        _, one = alone(one, x, mask=here, use_running_average=False)
        np.testing.assert_allclose(ys[here], y[here], rtol=1e-5, atol=1e-5)
        y, _ = alone(one, x, use_running_average=True)
        np.testing.assert_allclose(z[here], y[here], rtol=1e-5, atol=1e-5)
        mine = jax.tree.map(lambda a, s=segment: a[s], new["batch_stats"])
        chex.assert_trees_all_close(mine, one["batch_stats"], rtol=1e-5, atol=1e-6)
    before, after = variables["batch_stats"], new["batch_stats"]
    chex.assert_trees_all_equal(
        *(jax.tree.map(lambda a: a[1], stats) for stats in (before, after))
    )


@BOTH
def test_two_domains_at_test_time(layer, x):
    """A domain is normalized by its own statistics, whatever else is in the batch."""
    apply = layer(FEATURES, num_segments=SEGMENTS, momentum=0.0)
    _, new = apply(segmented(), x, segment_ids=IDS, use_running_average=False)
    y, _ = apply(new, x, segment_ids=IDS, use_running_average=True)
    for segment in (0, 2):
        domain = y[segment == IDS]
        np.testing.assert_allclose(domain.mean((0, 1)), 0, atol=1e-5)
        np.testing.assert_allclose(domain.std((0, 1)), 1, rtol=1e-3)


@BOTH
def test_renorm(layer, x):
    apply = layer(FEATURES, kind="BatchRenorm", num_segments=SEGMENTS)
    variables = segmented()
    stats = {"mean": jnp.ones((3, 4)) * 2, "var": jnp.ones((3, 4)) * 4}
    variables = {**variables, "batch_stats": stats}
    y, _ = apply(variables, x, segment_ids=IDS, use_running_average=False)
    z, _ = apply(variables, x, segment_ids=IDS, use_running_average=True)
    np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-5)


@BOTH
@pytest.mark.parametrize("inference", [False, True])
def test_scale_and_bias_of_each_example(layer, rng, x, inference):
    """Class-conditional: rows of a table, which has the gradient."""
    classes = jnp.asarray(rng.integers(0, 5, size=8))
    table = jnp.asarray(rng.normal(1, 0.2, size=(2, 5, FEATURES)), jnp.float32)
    apply = layer(FEATURES, use_scale=False, use_bias=False)
    variables = start(FEATURES, affine=False)

    def output(table, **call):
        scale, bias = table[:, classes]
        call["use_running_average"] = inference
        return apply(variables, x, scale=scale, bias=bias, **call)[0]

    def plain(table):
        scale, bias = table[:, classes]
        y, _ = apply(variables, x, use_running_average=inference)
        return y * scale[:, None] + bias[:, None]

    np.testing.assert_allclose(output(table), plain(table), rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda table: jnp.sum(output(table) ** 3))(table)
    expected = jax.grad(lambda table: jnp.sum(plain(table) ** 3))(table)
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-4)


@BOTH
def test_scale_is_given_once(layer, x):
    apply = layer(FEATURES)
    with pytest.raises(ValueError, match="`scale` must be learned by the layer or"):
        apply(start(FEATURES), x, use_running_average=True, scale=jnp.ones((8, 4)))


def test_initialization_makes_statistics_of_segments(x):
    model = jaxbn.linen.BatchNorm(use_running_average=False, num_segments=SEGMENTS)
    variables = model.init(jax.random.key(0), x, segment_ids=IDS)
    shapes = jax.tree.map(jnp.shape, variables["batch_stats"])
    assert shapes == {"mean": (3, 4), "var": (3, 4)}
    assert variables["params"]["scale"].shape == (4,)


def test_population_and_micro_batches_of_segments(x):
    """Records have the axes of the statistics."""
    norm = jaxbn.nnx.BatchNorm(FEATURES, num_segments=SEGMENTS, rngs=nnx.Rngs(0))

    def forward(norm, batch):
        norm(*batch[:1], segment_ids=batch[1])

    batches = [(x[:3], IDS[:3]), (x[3:], IDS[3:])]
    jaxbn.population.estimate_nnx(forward, norm, batches, progress=False)
    expected = jaxbn.compute_moments(x, segment_ids=IDS, num_segments=SEGMENTS)
    for segment in (0, 2):
        np.testing.assert_allclose(
            norm.mean[...][segment], expected.mean[segment], rtol=1e-5, atol=1e-6
        )
    assert norm.var[...][1].tolist() == [1, 1, 1, 1]
    norm = jaxbn.nnx.BatchNorm(
        FEATURES, num_segments=SEGMENTS, momentum=0.0, rngs=nnx.Rngs(0)
    )
    jaxbn.nnx.begin_accumulation(norm)
    for batch in batches:
        forward(norm, batch)
    jaxbn.nnx.commit(norm)
    np.testing.assert_allclose(norm.var[...][::2], expected.var[::2], rtol=1e-5)


def test_a_model_is_diagnosed(x):
    norm = jaxbn.nnx.BatchNorm(FEATURES, num_segments=SEGMENTS, rngs=nnx.Rngs(0))

    def forward(norm, batch):
        return norm(batch[0], segment_ids=batch[1])

    report = jaxbn.nnx.diagnose(norm, [(x, IDS)] * 4, forward=forward)
    assert [layer.path for layer in report.layers] == [".[0]", ".[1]", ".[2]"]


def test_flax_cannot_take_segments(x):
    model = jaxbn.linen.BatchNorm(use_running_average=True, num_segments=SEGMENTS)
    variables = model.init(jax.random.key(0), x, segment_ids=IDS)
    with pytest.raises(ValueError, match="num_segments=3"):
        jaxbn.linen.restore(model.apply)(variables, x, segment_ids=IDS)


def test_a_conditional_norm_in_a_linen_model(x):
    """As in BigGAN: scale and bias are embeddings of the class."""

    class Generator(nn.Module):
        @nn.compact
        def __call__(self, x, classes, train):
            scale = 1 + nn.Embed(5, FEATURES, name="scale")(classes)
            bias = nn.Embed(5, FEATURES, name="bias")(classes)
            norm = jaxbn.linen.BatchNorm(
                use_running_average=not train, use_scale=False, use_bias=False
            )
            return norm(x, scale=scale, bias=bias)

    classes = jnp.arange(8) % 5
    variables = Generator().init(jax.random.key(0), x, classes, True)
    y, _ = Generator().apply(variables, x, classes, True, mutable="batch_stats")
    plain, _ = jaxbn.batch_norm(x)
    params = variables["params"]
    scale = 1 + params["scale"]["embedding"][classes]
    expected = plain * scale[:, None] + params["bias"]["embedding"][classes][:, None]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
