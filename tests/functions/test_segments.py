# SPDX-License-Identifier: Apache-2.0
"""Segments, and scale and bias of each example, against plain formulas in float64."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbn
from tests import shards

SEGMENTS = 4
SIZE, STEPS, FEATURES = 12, 5, 3
IDS = np.array([0, 2, 2, 0, 0, 2, 3, 0, 2, 3, 3, 3])  # none is in segment 1
KNOWN = jnp.asarray(IDS)


class Inputs(NamedTuple):
    """What has a gradient."""

    x: jax.Array
    scale: jax.Array | None
    bias: jax.Array | None
    residual: jax.Array | None


@pytest.fixture
def inputs(rng):
    """Segments that are far apart, of different deviations."""
    x = rng.normal(size=(SIZE, STEPS, FEATURES)) * (1 + IDS[:, None, None])
    x += 3 * IDS[:, None, None]
    features = rng.normal(1, 0.3, size=(SIZE, FEATURES))
    residual = rng.normal(size=x.shape)
    return Inputs(x, features, rng.normal(size=features.shape), residual)


@pytest.fixture
def cotangents(rng):
    shapes = (SIZE, STEPS, FEATURES), (SEGMENTS, FEATURES), (SEGMENTS, FEATURES)
    return tuple(rng.normal(size=shape) for shape in shapes)


def reference(inputs, weights, ids=IDS, activation=None, epsilon=1e-5):
    """Two passes over each segment; no code of the library."""
    x, scale, bias, residual = inputs
    y, moments = jnp.zeros_like(x), []
    for segment in range(SEGMENTS):
        share = weights * jnp.asarray(ids == segment, weights.dtype)[:, None, None]
        count = share.sum((0, 1))
        number = jnp.where(count > 0, count, 1)
        mean = (share * x).sum((0, 1)) / number
        var = (share * (x - mean) ** 2).sum((0, 1)) / number
        z = (x - mean) / jnp.sqrt(var + epsilon)
        y = y + jnp.where(share > 0, z, 0)
        moments.append((mean, var, count[0]))
    if scale is not None:
        y = y * (scale[:, None] if scale.ndim == 2 else scale)
    if bias is not None:
        y = y + (bias[:, None] if bias.ndim == 2 else bias)
    if residual is not None:
        y = y + residual
    y = y if activation is None else activation(y)
    y = jnp.where(weights > 0, y, 0)
    return y, *map(jnp.stack, zip(*moments, strict=True))


def library(inputs, weights, ids=KNOWN, **call):
    """The same by the library."""
    if weights is not None:
        call["mask"] = weights
    y, moments = jaxbn.batch_norm(
        *inputs[:3],
        residual=inputs.residual,
        segment_ids=ids,
        num_segments=None if ids is None else SEGMENTS,
        **call,
    )
    return y, *moments


def check(inputs, weights, cotangents, **call):
    """Results and gradients."""
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), inputs)
    known = None if weights is None else jnp.asarray(weights, jnp.float32)
    dys = tuple(jnp.asarray(c, jnp.float32) for c in cotangents)

    def ours(inputs):
        return library(inputs, known, **call)

    results = jax.jit(ours)(single)
    found = jax.jit(lambda i: jax.vjp(lambda i: ours(i)[:3], i)[1](dys)[0])(single)
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        double = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), inputs)
        exact = jnp.ones(inputs.x.shape) if weights is None else jnp.asarray(weights)
        exact = jnp.broadcast_to(exact, inputs.x.shape)

        def theirs(inputs):
            return reference(inputs, exact, **call)

        expected = theirs(double)
        pulled = jax.vjp(lambda i: theirs(i)[:3], double)[1]
        slopes = pulled(tuple(jnp.asarray(c) for c in cotangents))[0]
    close = functools.partial(chex.assert_trees_all_close, rtol=2e-5, atol=2e-5)
    close(*jax.tree.map(np.float64, (results, expected)))
    close(*jax.tree.map(np.float64, (found, slopes)))


def with_params(inputs, scale="each", bias="each", residual=True):
    """Of each example, shared, or none."""
    take = {"each": lambda a: a, "shared": lambda a: a[0], "none": lambda a: None}
    return inputs._replace(
        scale=take[scale](inputs.scale),
        bias=take[bias](inputs.bias),
        residual=inputs.residual if residual else None,
    )


@pytest.mark.parametrize("activation", [None, jax.nn.relu, jnp.tanh])
@pytest.mark.parametrize("scale", ["each", "shared", "none"])
@pytest.mark.parametrize("bias", ["each", "shared", "none"])
def test_params(inputs, cotangents, scale, bias, activation):
    check(with_params(inputs, scale, bias), None, cotangents, activation=activation)


@pytest.mark.parametrize("kind", ["bool", "float", "features"])
def test_masks(rng, inputs, cotangents, kind):
    mask = rng.uniform(size=(SIZE, STEPS, 1)) > 0.3
    if kind == "float":
        mask = mask * rng.uniform(0.5, 2, size=mask.shape)
    mask = np.asarray(mask, np.float64)
    if kind == "features":  # each feature counts its own
        mask = np.float64(rng.uniform(size=inputs.x.shape) > 0.3)
        x = jnp.asarray(inputs.x, jnp.float32)
        stacked = jaxbn.compute_moments(
            x, mask=jnp.asarray(mask), segment_ids=KNOWN, num_segments=SEGMENTS
        )
        for segment in range(SEGMENTS):
            alone = jnp.asarray(mask * (segment == IDS)[:, None, None])
            expected = jaxbn.compute_moments(x, mask=alone)
            one = jax.tree.map(lambda a, s=segment: a[s], stacked)
            chex.assert_trees_all_close(one, expected, rtol=1e-5, atol=1e-6)
        return
    check(inputs, mask, cotangents)


@pytest.mark.parametrize("mean", [0, 1e3, 1e5])
def test_each_segment_is_a_masked_run_alone(rng, mean):
    """Far from 0 too, where sums are taken again about the mean of each."""
    x = mean * (1 + IDS[:, None, None]) + rng.normal(size=(SIZE, 200, FEATURES))
    x = jnp.asarray(x, jnp.float32)
    y, moments = jaxbn.batch_norm(x, segment_ids=KNOWN, num_segments=SEGMENTS)
    for segment in range(SEGMENTS):
        here = segment == IDS
        alone, expected = jaxbn.batch_norm(x, mask=jnp.asarray(here))
        np.testing.assert_allclose(y[here], alone[here], rtol=1e-4, atol=1e-4)
        one = jax.tree.map(lambda a, s=segment: a[s], moments)
        chex.assert_trees_all_close(one, expected, rtol=1e-5)


def test_nan_stays_in_its_segment(inputs):
    x = jnp.asarray(inputs.x, jnp.float32)
    spoilt = x.at[1, 0, 0].set(jnp.nan).at[6, 0, 1].set(jnp.inf)

    def moments_of(x):
        return jaxbn.batch_norm(x, segment_ids=KNOWN, num_segments=SEGMENTS)

    (y, moments), (clean_y, clean) = moments_of(spoilt), moments_of(x)
    assert jnp.isnan(moments.mean[2, 0])
    np.testing.assert_allclose(moments.mean[:2], clean.mean[:2], rtol=1e-5)
    np.testing.assert_allclose(y[IDS == 0], clean_y[IDS == 0], rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda x: jnp.sum(moments_of(x)[0][IDS == 0] ** 3))(spoilt)
    assert jnp.all(jnp.isfinite(slope[IDS == 0]))


def test_ids_that_are_not_known_count_for_nothing(inputs):
    x = jnp.asarray(inputs.x, jnp.float32)
    ids = np.where(IDS == 3, [-1, 99] * 6, IDS)

    @jax.jit
    def norm(x, ids):
        return jaxbn.batch_norm(x, segment_ids=ids, num_segments=SEGMENTS)

    y, moments = norm(x, jnp.asarray(ids))
    assert moments.count.tolist() == [20, 0, 20, 0]
    np.testing.assert_array_equal(y[IDS == 3], 0)
    z = jax.jit(functools.partial(jaxbn.normalize, num_segments=SEGMENTS))(
        x, moments.mean, moments.var, segment_ids=jnp.asarray(ids)
    )
    np.testing.assert_allclose(z, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", ["each", "shared"])
@pytest.mark.parametrize(
    "activation", [None, jax.nn.relu, jnp.tanh, lambda z: jnp.sin(z) + 1]
)
def test_nan_in_no_segment_passes_nowhere(inputs, activation, scale):
    """To no output, gradient or tangent, in training and inference."""
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), inputs)
    single = with_params(single, scale=scale)
    ids = jnp.asarray(np.where(IDS == 3, [-1, 99] * 6, IDS))
    outside = jnp.asarray(IDS == 3)[:, None, None]
    spoilt = single._replace(
        x=jnp.where(outside, jnp.nan, single.x),
        residual=jnp.where(outside, jnp.inf, single.residual),
    )
    of_call = {"num_segments": SEGMENTS, "activation": activation}

    def results(inputs, ids, inference, mask=None):
        x, *params, residual = inputs
        known = {"residual": residual, "segment_ids": ids, "mask": mask, **of_call}
        y, moments = jaxbn.batch_norm(x, *params, **known)
        if inference:
            of_batch = {"segment_ids": ids, "num_segments": SEGMENTS, "mask": mask}
            moments = jaxbn.compute_moments(x, **of_batch)
            y = jaxbn.normalize(x, moments.mean, moments.var, *params, **known)
        return y, moments.mean, moments.var

    def slopes(inputs, ids, inference, mask=None):
        of_inputs = functools.partial(results, ids=ids, inference=inference, mask=mask)
        primals, pull = jax.vjp(of_inputs, inputs)
        ones = jax.tree.map(jnp.ones_like, inputs)
        pushed = jax.jvp(of_inputs, (inputs,), (ones,))[1]
        dy, *dmoments = map(jnp.cos, primals)
        dy = jnp.where(outside, jnp.nan, dy)
        return primals, pull((dy, *dmoments)), pushed

    for inference in (False, True):
        both = jax.jit(functools.partial(slopes, inference=inference))
        masked = both(single, jnp.where(ids < 0, 0, ids % SEGMENTS), mask=~outside)
        for inputs in (spoilt, single):
            chex.assert_trees_all_close(both(inputs, ids), masked, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.uint32])
def test_ids_of_any_integer_dtype(inputs, dtype):
    """An id out of range does not become another."""
    x = jnp.asarray(inputs.x, jnp.float32)
    moments = jax.jit(functools.partial(jaxbn.compute_moments, num_segments=256))
    ids = jnp.asarray(IDS, dtype).at[0].set(jnp.iinfo(dtype).max)
    count = moments(x, segment_ids=ids).count
    known = {"int8": 127, "uint8": 255, "uint32": None}[jnp.dtype(dtype).name]
    assert count.sum() == (55 if known is None else 60)
    assert known is None or count[known] == 5


def test_merged_segments_are_the_batch(inputs):
    x = jnp.asarray(inputs.x, jnp.float32)
    stacked = jaxbn.compute_moments(x, segment_ids=KNOWN, num_segments=SEGMENTS)
    whole = jaxbn.compute_moments(x)
    chex.assert_trees_all_close(jaxbn.merge_moments(stacked), whole, rtol=1e-5)


def test_virtual_batches_of_segments(inputs):
    """Each part has the moments of each segment; what each example has is cut too."""
    x, scale, bias, _ = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), inputs)
    call = {"num_segments": SEGMENTS, "activation": jax.nn.relu}
    y, moments = jaxbn.batch_norm(
        x, scale, bias, segment_ids=KNOWN, virtual_batch_size=4, **call
    )
    assert moments.mean.shape == (3, SEGMENTS, FEATURES)
    for part in range(3):
        rows = slice(4 * part, 4 * part + 4)
        alone, expected = jaxbn.batch_norm(
            x[rows], scale[rows], bias[rows], segment_ids=KNOWN[rows], **call
        )
        np.testing.assert_allclose(y[rows], alone, rtol=1e-5, atol=1e-5)
        one = jax.tree.map(lambda a, p=part: a[p], moments)
        chex.assert_trees_all_close(one, expected, rtol=1e-5)


def test_renorm_corrects_towards_each_segments_statistics(inputs):
    x = jnp.asarray(inputs.x, jnp.float32)
    moments = jaxbn.compute_moments(x, segment_ids=KNOWN, num_segments=SEGMENTS)
    stats = jaxbn.RunningStats(moments.mean + 0.1, moments.var * 1.1, moments.var)
    y, _ = jaxbn.batch_renorm(x, stats, segment_ids=KNOWN, num_segments=SEGMENTS)
    expected = jaxbn.normalize(
        x, stats.mean, stats.var, segment_ids=KNOWN, num_segments=SEGMENTS
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_complex_numbers(rng, inputs):
    x = jnp.asarray(inputs.x + 1j * rng.normal(size=inputs.x.shape), jnp.complex64)
    scale = jnp.asarray(inputs.scale, jnp.complex64)
    y, moments = jaxbn.batch_norm(x, scale, segment_ids=KNOWN, num_segments=SEGMENTS)
    for segment in (0, 2, 3):
        here = segment == IDS
        alone, expected = jaxbn.batch_norm(x[here])
        np.testing.assert_allclose(
            y[here], alone * scale[here][:, None], rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(moments.var[segment], expected.var, rtol=1e-5)


@pytest.mark.parametrize("axis", [1, (1, 2)])
def test_other_feature_axes(inputs, axis):
    x = jnp.asarray(inputs.x, jnp.float32)
    call = {"axis": axis, "segment_ids": KNOWN, "num_segments": SEGMENTS}
    y, moments = jaxbn.batch_norm(x, **call)
    alone, expected = jaxbn.batch_norm(x[IDS == 2], axis=axis)
    np.testing.assert_allclose(y[IDS == 2], alone, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(moments.mean[2], expected.mean, rtol=1e-4)


def test_half_precision(inputs):
    x = jnp.asarray(inputs.x, jnp.bfloat16)
    y, moments = jaxbn.batch_norm(x, segment_ids=KNOWN, num_segments=SEGMENTS)
    assert y.dtype == jnp.bfloat16 and moments.mean.dtype == jnp.float32


def test_update_keeps_absent_segments_bit_for_bit(inputs):
    x = jnp.asarray(inputs.x, jnp.float32)
    stats = jaxbn.init_running_stats((SEGMENTS, FEATURES))
    stats = stats._replace(mean=stats.mean + 0.1, var=stats.var * 0.3)
    moments = jaxbn.compute_moments(x, segment_ids=KNOWN, num_segments=SEGMENTS)
    for unbiased in (False, True):
        new = jaxbn.update_running_stats(stats, moments, unbiased=unbiased)
        absent = jax.tree.map(lambda a: a[1], (new, stats))
        chex.assert_trees_all_equal(*absent)
        assert new.count[:, 0].tolist() == [1, 0, 1, 1]
        for segment in (0, 2, 3):
            alone = jaxbn.update_running_stats(
                jax.tree.map(lambda a, s=segment: a[s], stats),
                jax.tree.map(lambda a, s=segment: a[s], moments),
                unbiased=unbiased,
            )
            one = jax.tree.map(lambda a, s=segment: a[s], new)
            chex.assert_trees_all_close(one, alone, rtol=1e-6)


@pytest.mark.parametrize("mode", shards.MODES)
@pytest.mark.parametrize("groups", [None, [[0, 2], [1, 3]]])
@pytest.mark.parametrize("params", ["each", "shared"])
def test_over_shards(inputs, cotangents, mode, groups, params):
    """Output and gradients of all shards together, whatever is of each example."""
    inputs = with_params(inputs, params, params, residual=False)
    inputs = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), inputs)
    dy = jnp.asarray(cotangents[0], jnp.float32)
    call = {"num_segments": SEGMENTS, "activation": jax.nn.relu}

    def loss(x, scale, bias, ids, dy, **sync):
        y, _ = jaxbn.batch_norm(x, scale, bias, segment_ids=ids, **sync, **call)
        return jnp.sum(y * dy)

    def split(a):
        return a.reshape(4, 3, *a.shape[1:])

    each = params == "each"
    shard = (split(inputs.x), split(jnp.asarray(IDS)), split(dy))
    own = (split(inputs.scale), split(inputs.bias)) if each else ()

    def local(shard, shared):
        (x, ids, dy), own = shard
        scale, bias = own or shared
        gradient = jax.value_and_grad(loss, argnums=(0, 1, 2))
        sync = {"axis_name": "i", "axis_index_groups": groups}
        return gradient(x, scale, bias, ids, dy, **sync)

    shared = () if each else (inputs.scale, inputs.bias)
    values, slopes = jax.jit(shards.mapped(mode, local))((shard, own), shared)
    x_slope = np.asarray(slopes[0]).reshape(inputs.x.shape)
    for group in groups or [[0, 1, 2, 3]]:
        rows = np.concatenate([np.arange(3 * s, 3 * s + 3) for s in group])
        scale, bias = (a[rows] if each else a for a in (inputs.scale, inputs.bias))
        arguments = inputs.x[rows], scale, bias, jnp.asarray(IDS[rows]), dy[rows]
        value, expected = jax.value_and_grad(loss, argnums=(0, 1, 2))(*arguments)
        np.testing.assert_allclose(
            sum(np.asarray(values)[s] for s in group), value, rtol=1e-4
        )
        np.testing.assert_allclose(x_slope[rows], expected[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("mode", "size"),
    [*((mode, 6) for mode in shards.MODES), *(("shard_map", n) for n in (1, 3, 12))],
)
def test_virtual_batches_over_shards(inputs, cotangents, mode, size):
    """Parts of a shard, one shard, two, and all: as if nothing was cut over shards."""
    x, dy = (jnp.asarray(a, jnp.float32) for a in (inputs.x, cotangents[0]))

    def norm(x, ids, dy, **sync):
        def loss(x):
            y, moments = jaxbn.batch_norm(
                x,
                segment_ids=ids,
                num_segments=SEGMENTS,
                virtual_batch_size=size,
                **sync,
            )
            return jnp.sum(y * dy), (y, moments)

        slope, (y, moments) = jax.grad(loss, has_aux=True)(x)
        return y, slope, moments

    y, slope, moments = jax.jit(norm)(x, jnp.asarray(IDS), dy)
    shard = tuple(a.reshape(4, 3, *a.shape[1:]) for a in (x, jnp.asarray(IDS), dy))

    def local(shard, _):
        return norm(*shard, axis_name="i")

    found_y, found_slope, found = jax.jit(shards.mapped(mode, local))(shard, ())
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(np.asarray(found_y).reshape(y.shape), y)
    close(np.asarray(found_slope).reshape(y.shape), slope, atol=1e-4)
    one = jax.tree.map(lambda a: np.asarray(a)[0], found)
    jax.tree.map(close, one, moments)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_under_jit_over_a_mesh(inputs, cotangents, kind):
    mesh = shards.mesh(kind=kind)
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), inputs)
    dy = jnp.asarray(cotangents[0], jnp.float32)

    def loss(inputs, ids, dy):
        y, *_ = library(inputs, None, ids=None)
        z, mean, *_ = library(inputs, None, ids=ids)
        return jnp.sum((y + z) * dy) + jnp.sum(mean**2)

    arguments = single, jnp.asarray(IDS), dy
    expected = jax.value_and_grad(loss)(*arguments)
    with jax.set_mesh(mesh):
        placed = jax.device_put(arguments, NamedSharding(mesh, P("i")))
        found = jax.jit(jax.value_and_grad(loss))(*placed)
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-4)


LAYOUTS = {
    "ids of all, examples cut": (P("i"), P(), P()),
    "ids cut, examples of all": (P(), P("i"), P()),
    "features cut": (P(None, None, "j"), P(), P("j")),
    "both cut": (P("i", None, "j"), P("i"), P("j")),
    "both cut, ids of all": (P("i", None, "j"), P(), P()),
    "steps cut": (P(None, "j"), P("i"), P()),
    "ids cut as features": (P("i", None, "j"), P("j"), P("j")),
}


@pytest.mark.parametrize("jitted", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_need_not_be_cut_as_the_input_is(rng, layout, jitted):
    mesh = jax.make_mesh((2, 2), ("i", "j"), axis_types=(AxisType.Explicit,) * 2)
    x = jnp.asarray(rng.normal(2, 1, (8, 4, 6)), jnp.float32)
    scale = jnp.asarray(rng.normal(1, 0.3, 6), jnp.float32)
    ids = jnp.array([0, 2, 2, 0, 3, 2, 3, 0], jnp.int32)

    def step(x, ids, scale):
        def norm(x, scale):
            return jaxbn.batch_norm(x, scale, segment_ids=ids, num_segments=SEGMENTS)

        (y, moments), vjp = jax.vjp(norm, x, scale)
        return y, moments, vjp((y * y, jax.tree.map(jnp.zeros_like, moments)))

    expected = step(x, ids, scale)
    placed = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip((x, ids, scale), LAYOUTS[layout], strict=True)
    ]
    found = (jax.jit(step) if jitted else step)(*placed)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)


def test_ids_of_one_device_for_an_input_over_several(inputs):
    """As they come from `jnp.repeat`."""
    mesh = shards.mesh(kind=AxisType.Explicit)
    x = jnp.asarray(inputs.x, jnp.float32)
    expected = jaxbn.batch_norm(x, segment_ids=KNOWN, num_segments=SEGMENTS)
    cut = jax.device_put(x, NamedSharding(mesh, P("i")))
    found = jaxbn.batch_norm(cut, segment_ids=KNOWN, num_segments=SEGMENTS)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_mask_made_inside_the_map(inputs):
    mesh = shards.mesh(kind=AxisType.Auto)
    x = jnp.asarray(inputs.x, jnp.float32)
    steps = jnp.arange(STEPS) > 0

    def norm(x, ids, **sync):
        mask = jnp.broadcast_to(steps, (len(x), STEPS))
        call = {"segment_ids": ids, "num_segments": SEGMENTS, "mask": mask}
        return jaxbn.batch_norm(x, **call, **sync)[0]

    def local(x, ids):
        return norm(x, ids, axis_name="i")

    mapped = jax.shard_map(local, mesh=mesh, in_specs=P("i"), out_specs=P("i"))
    found = jax.jit(mapped)(x, KNOWN)
    np.testing.assert_allclose(found, norm(x, KNOWN), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("check_vma", [True, False])
def test_features_that_another_axis_of_the_mesh_cuts(rng, check_vma):
    """One axis is mapped over, the other part of the types."""
    mesh = jax.make_mesh((2, 2), ("i", "j"), axis_types=(AxisType.Explicit,) * 2)
    x = jnp.asarray(rng.normal(2, 1, (8, 4, 6)), jnp.float32)
    ids = jnp.array([0, 2, 2, 0, 3, 2, 3, 0], jnp.int32)

    def step(x, ids, **sync):
        call = {"segment_ids": ids, "num_segments": SEGMENTS, **sync}
        y, vjp = jax.vjp(lambda x: jaxbn.batch_norm(x, **call)[0], x)
        return y, vjp(y * y)[0]

    mapped = jax.shard_map(
        functools.partial(step, axis_name="i"), mesh=mesh, in_specs=P("i"),
        out_specs=P("i"), axis_names={"i"}, check_vma=check_vma,
    )  # fmt: skip
    with jax.set_mesh(mesh):
        cut = jax.device_put(x, NamedSharding(mesh, P("i", None, "j")))
        found = jax.jit(mapped)(cut, jax.device_put(ids, NamedSharding(mesh, P("i"))))
    chex.assert_trees_all_close(found, step(x, ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1,), (1, STEPS), (1, STEPS, 1), (1, 1, FEATURES)])
@pytest.mark.parametrize("dtype", [bool, jnp.float32])
def test_a_mask_for_all_examples(inputs, shape, dtype):
    x = jnp.asarray(inputs.x, jnp.float32)
    mask = (jnp.arange(int(np.prod(shape))).reshape(shape) != 1).astype(dtype)
    whole = jnp.broadcast_to(
        mask.reshape(shape + (1,) * (3 - len(shape))), (SIZE, *x.shape[1:])
    )
    found, expected = (
        jaxbn.compute_moments(x, mask=m, segment_ids=KNOWN, num_segments=SEGMENTS)
        for m in (mask, whole)
    )
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-6
        )
    count = found.count if found.count.ndim == 2 else found.count[:, None]
    np.testing.assert_array_equal(
        jnp.broadcast_to(count, expected.count.shape), expected.count
    )


def test_under_vmap_and_forward_mode(inputs):
    x = jnp.asarray(inputs.x, jnp.float32)

    def norm(x, ids):
        return jaxbn.batch_norm(x, segment_ids=ids, num_segments=SEGMENTS)[0]

    ids = jnp.stack([jnp.asarray(IDS), jnp.asarray(IDS[::-1].copy())])
    both = jax.vmap(norm, in_axes=(None, 0))(x, ids)
    np.testing.assert_allclose(both[1], norm(x, ids[1]), rtol=1e-5, atol=1e-5)

    def slope(x):
        return norm(jnp.asarray(x), ids[0])

    chex.assert_numerical_grads(slope, (x,), order=1, atol=0.05)


@pytest.mark.parametrize("flag", [jax.debug_nans, jax.debug_infs])
def test_no_nan_is_made(inputs, flag):
    x = jnp.asarray(inputs.x, jnp.float32)

    def loss(x):
        y, _ = jaxbn.batch_norm(x, segment_ids=KNOWN, num_segments=SEGMENTS)
        return jnp.sum(y**3)

    with flag(True):
        jax.jit(jax.grad(loss))(x)
