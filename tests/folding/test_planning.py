# SPDX-License-Identifier: Apache-2.0
"""Where a norm goes, and why one is left: each trap of folding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxbn.folding import fold
from tests.folding.networks import (
    check_equal,
    draw,
    draw_norm,
    in_double,
    norm,
    primitives,
)


def conv(x, kernel, padding="VALID"):
    order = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=order)


def pool(x, padding="VALID"):
    return lax.reduce_window(
        x, np.array(-np.inf, x.dtype), lax.max, (1, 2, 2, 1), (1, 2, 2, 1), padding
    )


def average(x):
    zero = np.array(0, x.dtype)
    total = lax.reduce_window(x, zero, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return total / 4


@pytest.fixture
def x(rng):
    return draw(rng, 3, 6, 6, 4)


@pytest.fixture
def params(rng):
    return {
        "conv_0": {"kernel": draw(rng, 2, 2, 4, 4), "bias": draw(rng, 1, 1, 1, 4)},
        "conv_1": {"kernel": draw(rng, 2, 2, 4, 4), "bias": draw(rng, 1, 1, 1, 4)},
        "dense": {"kernel": draw(rng, 100, 3), "bias": draw(rng, 1, 3)},
        "norm_0": draw_norm(rng, 4),
        "norm_1": draw_norm(rng, 4),
    }


def reasons(folded):
    return [entry.reason for entry in folded.report]


def test_output_used_elsewhere_too(params, x):
    def network(p, x):
        z = conv(x, p["conv_0"]["kernel"])
        return norm(z, p["norm_0"]) + jnp.tanh(z)

    assert reasons(check_equal(network, params, x, left=1)) == [
        "because its input is used elsewhere too and its output goes into an addition"
    ]


def test_output_returned_too(params, x):
    def network(p, x):
        z = conv(x, p["conv_0"]["kernel"])
        return norm(z, p["norm_0"]), z

    folded = fold(network, params, x)
    assert "its input is used elsewhere too" in folded.report[0].reason
    for got, expected in zip(folded(x), network(params, x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_norm_used_by_two_layers_goes_into_both(params, x):
    def network(p, x):
        y = norm(jax.nn.relu(x), p["norm_0"])
        return conv(y, p["conv_0"]["kernel"]) * conv(y, p["conv_1"]["kernel"])

    folded = fold(network, params, x)
    assert folded.report[0].kernels == ("conv_0/kernel", "conv_1/kernel")
    np.testing.assert_allclose(folded(x), network(params, x), rtol=1e-4, atol=1e-3)


def test_norm_used_by_a_layer_and_by_others_stays_whole(params, x):
    def network(p, x):
        y = norm(jax.nn.relu(x), p["norm_0"])
        return conv(y, p["conv_0"]["kernel"]).sum() + jnp.tanh(y).sum()

    folded = fold(network, params, x)
    assert reasons(folded) == [
        "because its input comes from `relu` and its output goes into `tanh`"
    ]
    np.testing.assert_array_equal(
        folded.params["conv_0/kernel"], params["conv_0"]["kernel"]
    )


def test_kernel_used_twice_has_a_copy_for_each_use(params, rng):
    """With another norm after each use, and where one use has none."""

    def network(p, x):
        kernel = p["conv_0"]["kernel"]
        z = jax.nn.relu(norm(conv(x, kernel), p["norm_0"]))
        z = jax.nn.relu(norm(conv(z, kernel), p["norm_1"]))
        return conv(z, kernel)

    x = draw(rng, 2, 6, 6, 4)
    folded = check_equal(network, params, x)
    assert sorted(folded.params) == [
        "conv_0/bias", "conv_0/bias_2",
        "conv_0/kernel", "conv_0/kernel_2", "conv_0/kernel_3",
    ]  # fmt: skip
    # The last use has no norm: its kernel is the one that was given.
    np.testing.assert_array_equal(
        folded.params["conv_0/kernel"], params["conv_0"]["kernel"]
    )


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_norm_after_relu_goes_into_the_next_layer(padding, params, x):
    def network(p, x):
        z = norm(jax.nn.relu(x), p["norm_0"])
        return conv(z, p["conv_0"]["kernel"], padding) + p["conv_0"]["bias"]

    folded = check_equal(network, params, x, left=padding == "SAME")
    if padding == "SAME":
        (reason,) = reasons(folded)
        assert reason == (
            "because its input comes from `relu` and `conv_0/kernel` pads its input "
            "with zeros, which have no shift"
        )


def test_norms_on_both_sides_of_one_layer(params, x):
    def network(p, x):
        z = norm(jax.nn.relu(x), p["norm_0"])
        return norm(conv(z, p["conv_0"]["kernel"]) + p["conv_0"]["bias"], p["norm_1"])

    folded = check_equal(network, params, x)
    assert sorted(folded.params) == ["conv_0/bias", "conv_0/kernel"]
    assert primitives(folded.function, folded.params, x).count("add") == 1


def test_two_norms_after_one_layer(params, x):
    def network(p, x):
        z = norm(conv(x, p["conv_0"]["kernel"]), p["norm_0"])
        return norm(z, p["norm_1"])

    folded = check_equal(network, params, x)
    assert [str(entry) for entry in folded.report] == [
        "norm_0: folded into conv_0/kernel",
        "norm_1: folded into conv_0/kernel",
    ]


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("positive", [True, False])
def test_max_pool(positive, padding, params, rng):
    """Passed only where all scales are positive; some trained ones are negative."""
    x = draw(rng, 2, 5, 5, 4)
    if positive:
        params["norm_0"]["scale"] = np.abs(params["norm_0"]["scale"])

    def network(p, x):
        z = pool(norm(jnp.tanh(x), p["norm_0"]), padding)
        return conv(z, p["conv_0"]["kernel"])

    folded = check_equal(network, params, x, left=not positive)
    if not positive:
        assert "its scale is not positive" in folded.report[0].reason


def test_average_pool_and_mean(params, x):
    def network(p, x):
        y = average(norm(jnp.tanh(x), p["norm_0"]))
        z = jnp.tanh(conv(y, p["conv_0"]["kernel"]))
        return norm(z, p["norm_1"]).mean((1, 2)) @ p["conv_1"]["kernel"][0, 0]

    folded = fold(network, params, x)
    assert reasons(folded) == [None, None]
    with jax.enable_x64(True):
        expected = np.asarray(network(in_double(params), in_double(x)))
    np.testing.assert_allclose(folded(x), expected, rtol=1e-4, atol=1e-5)


def test_an_addition_is_left(params, x):
    def network(p, x):
        z = conv(x, p["conv_0"]["kernel"])
        return norm(jax.nn.relu(z) + z, p["norm_1"])

    assert reasons(check_equal(network, params, x, left=1)) == [
        "because its input comes from an addition and its output is returned",
    ]


def test_dense_after_flatten(params, x, rng):
    """The map is repeated over the positions."""

    def network(p, x):
        z = jnp.tanh(conv(x, p["conv_0"]["kernel"]))
        flat = norm(z, p["norm_0"]).reshape(len(x), -1)
        return flat @ p["dense"]["kernel"] + p["dense"]["bias"]

    folded = check_equal(network, params, x)
    assert folded.params["dense/kernel"].shape == (100, 3)


def test_norm_of_flattened_features_after_a_convolution_is_left(params, x, rng):
    """Each position has a scale of its own, the kernel has one for all."""
    params["norm_0"] = draw_norm(rng, 100)

    def network(p, x):
        flat = conv(x, p["conv_0"]["kernel"]).reshape(len(x), -1)
        return jnp.tanh(norm(flat, p["norm_0"]))

    (reason,) = reasons(check_equal(network, params, x, left=1))
    assert "not constant along all axes but the features of `conv_0/kernel`" in reason


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_scale_along_another_axis_is_left(axis, params, rng):
    x = draw(rng, 5, 5, 5, 4)

    def network(p, x):
        return norm(conv(x, p["conv_0"]["kernel"]), p["norm_0"], axis)

    params["norm_0"] = draw_norm(rng, 5 if axis == 0 else 4)
    check_equal(network, params, x, left=1)


def test_transposed_and_reshaped_between(params, x):
    def network(p, x):
        z = conv(x, p["conv_0"]["kernel"])[:, None].transpose(4, 0, 1, 2, 3)
        return norm(z, p["norm_0"], 0)

    check_equal(network, params, x)


def test_what_changes_no_value_lies_between(params, x):
    """A copy, and a name for `jax.checkpoint`."""

    def network(p, x):
        z = jnp.array(conv(x, p["conv_0"]["kernel"]))
        return norm(checkpoint_name(z, "conv"), p["norm_0"])

    assert {"copy", "name"} <= {*primitives(network, params, x)}
    check_equal(network, params, x)


def test_a_kernel_out_of_range_is_left(params, x):
    """float16 ends at 65504, and has no small numbers: of one feature is enough."""

    def network(p, x):
        z = conv(x.astype(np.float16), p["conv_0"]["kernel"].astype(np.float16))
        return (z.astype(np.float32) - p["mean"][None, None, None]) * p["scale"]

    for scale in (1e6, 1e-7):
        scales = np.array([1, scale, 1, 1], np.float32).reshape(1, 1, 1, 4)
        own = {"conv_0": params["conv_0"], "mean": params["norm_0"]["mean"]}
        folded = fold(network, own | {"scale": scales}, x)
        (reason,) = reasons(folded)
        assert "the new kernel is out of the range of float16" in reason


def test_digits_are_not_lost(params, rng):
    """A norm of inputs with a large mean, or one before a narrow layer, stays."""
    x = 5000 + draw(rng, 3, 6, 6, 4)
    params["norm_0"]["mean"] += 5000
    params["norm_0"]["var"][:] = 1
    params["norm_0"]["scale"][:] = 1

    def network(p, x):
        return conv(norm(x, p["norm_0"]), p["conv_0"]["kernel"])

    (reason,) = reasons(check_equal(network, params, x, left=1))
    assert "its mean is too large to be subtracted after a product" in reason
    params["norm_0"]["mean"] -= 4999
    assert reasons(check_equal(network, params, x - 4999)) == [None]

    def narrow(p, x):
        z = norm(jnp.tanh(x), p["norm_0"]).astype(jnp.bfloat16)
        return conv(z, p["conv_0"]["kernel"].astype(jnp.bfloat16))

    (reason,) = reasons(fold(narrow, params, x))
    assert "its output is rounded to bfloat16" in reason


def test_statistics_that_are_not_finite_are_left(params, x):
    params["norm_0"]["var"][1] = np.nan

    def network(p, x):
        return norm(conv(x, p["conv_0"]["kernel"]), p["norm_0"])

    (reason,) = reasons(fold(network, params, x))
    assert "its statistics or parameters are not finite" in reason


def test_what_is_no_norm_stays(params, x):
    """A bias alone, a scale by a number, a temperature after a softmax."""

    def network(p, x):
        z = norm(conv(x, p["conv_0"]["kernel"]), p["norm_0"])
        z = jnp.tanh(z)
        return 2 * (conv(z, p["conv_1"]["kernel"]) + p["conv_1"]["bias"])

    folded = fold(network, params, x)
    assert len(folded.report) == 1
    np.testing.assert_array_equal(
        folded.params["conv_1/kernel"], params["conv_1"]["kernel"]
    )
    assert folded.params["conv_1/bias"].shape == (1, 1, 1, 4)
