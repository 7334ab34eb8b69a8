# SPDX-License-Identifier: Apache-2.0
"""Norms after a concatenation: each part's kernel takes its own slice, or none does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn.folding import fold
from tests.folding.networks import check_equal, draw, draw_norm, norm, primitives

SIZES = (3, 5, 2)


@pytest.fixture
def x(rng):
    return draw(rng, 4, 6)


@pytest.fixture
def params(rng):
    layers = [{"kernel": draw(rng, 6, n), "bias": draw(rng, 1, n)} for n in SIZES]
    return {"layers": dict(zip("abc", layers, strict=True)), "norm": draw_norm(rng, 10)}


def branches(p, x):
    """Linear layers of which one has a bias of its own."""
    layers = p["layers"]
    return (
        x @ layers["a"]["kernel"],
        x @ layers["b"]["kernel"] + layers["b"]["bias"],
        x @ layers["c"]["kernel"],
    )


KERNELS = ("layers/a/kernel", "layers/b/kernel", "layers/c/kernel")


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
def test_each_kernel_takes_its_slice(dtype, params, x):
    def network(p, x):
        return jax.nn.relu(norm(jnp.concatenate(branches(p, x), -1), p["norm"]))

    folded = check_equal(network, params, x, dtype=dtype)
    assert folded.report[0].kernels == KERNELS
    assert {k: v.shape for k, v in folded.params.items()} == {
        f"layers/{layer}/{name}": (6, n) if name == "kernel" else (n,)
        for layer, n in zip("abc", SIZES, strict=True)
        for name in ("kernel", "bias")
    }
    found = primitives(folded.function, folded.params, jnp.asarray(x, dtype))
    assert found.count("add") == 3


def test_a_scale_alone(params, x):
    """Without a shift only the layer with a bias has one."""

    def network(p, x):
        z = jnp.concatenate(branches(p, x), -1)
        return z * p["norm"]["scale"][None]

    for dtype in (np.float32, jnp.bfloat16):
        folded = check_equal(network, params, x, dtype=dtype)
        assert [k for k in folded.params if "bias" in k] == ["layers/b/bias"]


def test_shifts_of_a_wide_norm_are_rounded_once(params, x):
    """Narrow layers, of which the norm computes in float32."""

    def network(p, x):
        parts = branches(jax.tree.map(lambda a: a.astype(x.dtype), p), x)
        z = jnp.concatenate(parts, -1).astype(np.float32)
        return norm(z, jax.tree.map(lambda a: a.astype(np.float32), p["norm"]))

    params["norm"]["mean"] += 100
    narrow = jnp.asarray(x, jnp.bfloat16)
    folded = fold(network, params, narrow)
    assert folded.report[0].reason is None
    expected = network(params, narrow)
    y = folded(narrow)
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y, expected, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("nested", ["left", "right", "twice"])
def test_nested(nested, params, rng, x):
    """With a norm, a bias or a change of axes between the concatenations."""
    params["inner"] = draw_norm(rng, 8)
    params["shift"] = draw(rng, 1, 8)

    def network(p, x):
        a, b, c = branches(p, x)
        inner = jnp.concatenate([a, b], -1)
        if nested == "twice":
            inner = norm(inner, p["inner"])
        inner = inner + p["shift"]
        inner = inner.T.reshape(8, 1, len(x)).T[:, 0]
        parts = [c, inner] if nested == "right" else [inner, c]
        return norm(jnp.concatenate(parts, -1), p["norm"])

    folded = check_equal(network, params, x)
    assert {*folded.report[-1].kernels} == {*KERNELS}
    assert "norm/mean" not in folded.params and "shift" not in folded.params


def test_a_norm_within_a_branch(params, rng, x):
    params["inner"] = draw_norm(rng, 5)

    def network(p, x):
        a, b, c = branches(p, x)
        z = jnp.concatenate([a, norm(b, p["inner"]), c], -1)
        return norm(z, p["norm"])

    for dtype in (np.float32, jnp.bfloat16):
        assert len(check_equal(network, params, x, dtype=dtype).report) == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_along_another_axis(axis, rng):
    """The parts have all features: each kernel takes the whole map."""
    params = {"a": draw(rng, 6, 4), "b": draw(rng, 6, 4), "norm": draw_norm(rng, 4)}
    x = draw(rng, 2, 3, 6)

    def network(p, x):
        parts = [x @ p["a"], x @ p["b"]]
        if axis == 2:
            parts = [part[:, :, None] for part in parts]
        return norm(jnp.concatenate(parts, axis), p["norm"])

    assert check_equal(network, params, x).report[0].kernels == ("a", "b")


def test_a_norm_along_the_axis_of_the_parts(rng):
    """A map of each part is folded, one of each example has no place in a kernel."""
    params = {"a": draw(rng, 6, 4), "b": draw(rng, 6, 4), "norm": draw_norm(rng, 6)}
    x = draw(rng, 3, 6)

    def network(p, x):
        return norm(jnp.concatenate([x @ p["a"], x @ p["b"]], 0), p["norm"], 0)

    (entry,) = check_equal(network, params, x, left=1).report
    assert "all axes but the features of `a` and `b`" in entry.reason
    params["norm"] = draw_norm(rng, 2)

    def stacked(p, x):
        return norm(jnp.concatenate([(x @ p[k])[None] for k in "ab"]), p["norm"], 0)

    assert check_equal(stacked, params, x).report[0].kernels == ("a", "b")


@pytest.mark.parametrize("axis", [0, 1])
def test_a_symbolic_batch(axis, params, x):
    if axis == 0:
        params["norm"] = {k: v[:3] for k, v in params["norm"].items()}

    def network(p, x):
        a, b, c = branches(p, x)
        if axis == 1:
            return norm(jnp.concatenate([a, b, c], 1), p["norm"])
        again = (2 * x) @ p["layers"]["a"]["kernel"]
        return norm(jnp.concatenate([a, again]), p["norm"])

    (size,) = jax.export.symbolic_shape("batch")
    folded = fold(network, params, jax.ShapeDtypeStruct((size, 6), np.float32))
    assert folded.report[0].reason is None
    np.testing.assert_allclose(folded(x), network(params, x), rtol=1e-4, atol=1e-5)


def by_example(p):
    return p["layers"]["a"]["kernel"][:4, :1]


LEFT = {
    "relu": (lambda p, x, a, b, c: [a, jax.nn.relu(b), c], "comes from `relu`"),
    "shared": (lambda p, x, a, b, c: [a, b, c + a.sum()], "is used elsewhere too"),
    "twice": (lambda p, x, a, b, c: [b, b], "is used elsewhere too"),
    "input": (
        lambda p, x, a, b, c: [x, a, x[:, :1]],
        "is one of the function's inputs",
    ),
    "fixed": (lambda p, x, a, b, c: [a, b, by_example(p), x[:, :1]], "is fixed"),
    "scaled": (lambda p, x, a, b, c: [a, b, c * by_example(p)], "comes from `mul`"),
}


@pytest.mark.parametrize("which", LEFT)
def test_left_whole(which, params, x):
    """Where one part cannot take its slice, no kernel is changed."""
    parts, reason = LEFT[which]

    def network(p, x):
        z = jnp.concatenate(parts(p, x, *branches(p, x)), -1)
        return jnp.tanh(norm(z, p["norm"]))

    left = 2 if which == "scaled" else 1
    folded = check_equal(network, params, x, left=left)
    *_, entry = folded.report
    whole = "because its input comes from a concatenation, of which a part"
    assert entry.reason == f"{whole} {reason} and its output goes into `tanh`"
    for name in {*KERNELS} & {*folded.params}:
        kernel = params["layers"][name.split("/")[1]]["kernel"]
        np.testing.assert_array_equal(folded.params[name], kernel)


def test_one_kernel_out_of_range_leaves_all(params, x):
    params["norm"]["scale"][0] = 1e30
    params["layers"]["a"]["kernel"] *= 1e15

    def network(p, x):
        return jnp.tanh(norm(jnp.concatenate(branches(p, x), -1), p["norm"]))

    folded = fold(network, params, x)
    assert "out of the range of float32" in folded.report[0].reason
    np.testing.assert_array_equal(
        folded.params["layers/b/kernel"], params["layers"]["b"]["kernel"]
    )


def test_concatenated_features_that_are_used_again_are_left(params, x):
    """As in a DenseNet, where each layer takes what all before it gave."""

    def network(p, x):
        z = jnp.concatenate(branches(p, x), -1)
        return jnp.tanh(norm(z, p["norm"])) + z

    (entry,) = check_equal(network, params, x, left=1).report
    assert "its input is used elsewhere too" in entry.reason
