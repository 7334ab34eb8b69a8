# SPDX-License-Identifier: Apache-2.0
"""Every kind of convolution and product, with a norm after it and before it."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.folding.networks import check_equal, draw, draw_norm, norm

ORDERS = {
    1: [("NWC", "WIO", "NWC"), ("NCW", "OIW", "NCW")],
    2: [
        ("NHWC", "HWIO", "NHWC"),
        ("NCHW", "OIHW", "NCHW"),
        ("NHWC", "OIHW", "NCHW"),
        ("CHWN", "IHWO", "HWCN"),
    ],
    3: [("NDHWC", "DHWIO", "NDHWC"), ("NCDHW", "OIDHW", "NCDHW")],
}
SIZES = {"N": 2, "D": 4, "H": 6, "W": 5, "C": 6}
WINDOW = {"D": 2, "H": 3, "W": 2}
PADDINGS = ["VALID", "SAME", "crop"]
DTYPES = [np.float32, jnp.bfloat16, np.float16]


def draw_convolution(rng, order, groups, features):
    """An input and a kernel, drawn for their layouts."""
    sizes = {**WINDOW, "I": SIZES["C"] // groups, "O": features}
    x = draw(rng, *(SIZES[axis] for axis in order[0]))
    return x, draw(rng, *(sizes[axis] for axis in order[1])) / 5


def convolution(order, padding, groups, dilations=(1, 1), stride=1):
    """A function of input and kernel, and the feature axes of input and output."""
    rank = len(order[0]) - 2
    pads = [(-1, 0)] * rank if padding == "crop" else padding
    if dilations[0] != 1 and isinstance(pads, str):  # explicit where inputs are spread
        pads = [(0, 0) if pads == "VALID" else (1, 1)] * rank

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride,) * rank, pads,
            lhs_dilation=(dilations[0],) * rank, rhs_dilation=(dilations[1],) * rank,
            dimension_numbers=order, feature_group_count=groups,
        )  # fmt: skip

    return convolve, order[0].index("C"), order[2].index("C")


# Padding, groups and dilations act alike in every layout: all combinations are tried in
# Flax's, and in each of the others every padding and number of groups once.
DILATIONS = [(1, 1), (1, 2), (2, 1)]
FLAX, *OTHERS = [*ORDERS[2], *ORDERS[1], *ORDERS[3]]
DIAGONAL = [("VALID", 2, (1, 1)), ("crop", 6, (1, 2)), ("SAME", 1, (1, 1))]
CONVOLUTIONS = [
    *((FLAX, *rest) for rest in itertools.product(PADDINGS, (1, 2, 6), DILATIONS)),
    *((order, *rest) for order in OTHERS for rest in DIAGONAL),
]


@pytest.mark.parametrize(("order", "padding", "groups", "dilations"), CONVOLUTIONS)
def test_norm_after_a_convolution(order, padding, groups, dilations, rng):
    x, kernel = draw_convolution(rng, order, groups, 12)
    convolve, _, out = convolution(order, padding, groups, dilations)
    params = {"conv": {"kernel": kernel}, "norm": draw_norm(rng, 12)}
    folded = check_equal(
        lambda p, x: norm(convolve(x, p["conv"]["kernel"]), p["norm"], out), params, x
    )
    assert {k: v.shape for k, v in folded.params.items()} == {
        "conv/kernel": kernel.shape,
        "conv/bias": (12,),
    }


@pytest.mark.parametrize(("order", "padding", "groups", "dilations"), CONVOLUTIONS)
def test_norm_before_a_convolution(order, padding, groups, dilations, rng):
    """Only where the convolution sees no zeros of its own."""
    x, kernel = draw_convolution(rng, order, groups, 12)
    convolve, axis, _ = convolution(order, padding, groups, dilations)
    params = {"conv": {"kernel": kernel}, "norm": draw_norm(rng, 6)}

    def network(p, x):
        return convolve(norm(x, p["norm"], axis), p["conv"]["kernel"])

    sees_zeros = padding == "SAME" or dilations[0] != 1
    (entry,) = check_equal(network, params, x, left=sees_zeros).report
    if sees_zeros:
        assert "zeros" in entry.reason
        params["norm"] = {
            "mean": np.zeros(6, np.float32),
            "var": params["norm"]["var"],
            "scale": params["norm"]["scale"],
            "bias": np.zeros(6, np.float32),
        }
        folded = check_equal(network, params, x)  # without a shift
        assert [*folded.params] == ["conv/kernel"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("where", ["after", "before", "both"])
def test_narrow_convolutions(dtype, groups, where, rng):
    order = ORDERS[2][0]
    x, kernel = draw_convolution(rng, order, groups, 12)
    convolve, _, _ = convolution(order, "VALID", groups)
    params = {"kernel": kernel, "bias": draw(rng, 1, 1, 1, 12)}
    if where != "after":
        params["norm_0"] = draw_norm(rng, 6)
    if where != "before":
        params["norm_1"] = draw_norm(rng, 12)

    def network(p, x):
        z = norm(x, p["norm_0"]) if "norm_0" in p else x
        z = convolve(z, p["kernel"]) + p["bias"]
        return norm(z, p["norm_1"]) if "norm_1" in p else z

    check_equal(network, params, x, dtype=dtype)


PRODUCTS = [
    *("bc,cd->bd", "bc,dc->bd", "dc,bc->db", "dc,cb->db", "btc,cde->btde"),
    *("btc,cde->debt", "gbc,gcd->gbd", "bgc,gdc->bgd", "bgc,gdc->dbg"),
]
LENGTHS = {"b": 3, "c": 4, "d": 5, "e": 2, "t": 3, "g": 2}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("where", ["after", "before"])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_products(product, where, dtype, rng):
    left, right, out = product.replace("->", ",").split(",")
    kernel, moving = (left, right) if "b" in right else (right, left)
    feature = "d" if where == "after" else "c"
    axis = (out if where == "after" else moving).index(feature)
    params = {
        "kernel": draw(rng, *(LENGTHS[a] for a in kernel)),
        "norm": draw_norm(rng, LENGTHS[feature]),
    }

    def network(p, x):
        x = x if where == "after" else norm(x, p["norm"], axis)
        operands = (p["kernel"], x) if kernel == left else (x, p["kernel"])
        y = jnp.einsum(product, *operands)
        return norm(y, p["norm"], axis) if where == "after" else y

    check_equal(network, params, draw(rng, *(LENGTHS[a] for a in moving)), dtype=dtype)


@pytest.mark.parametrize(("product", "axes"), [
    ("bgc,dgc->gbd", "gd"), ("bgc,dgc->gbd", "gc"), ("bce,edc->bd", "ce"),
    ("dgc,bgc->gdb", "gd"),
])  # fmt: skip
def test_maps_along_two_axes(product, axes, rng):
    """A scale for each group or position, whose order in the kernel is another one."""
    left, right, out = product.replace("->", ",").split(",")
    kernel, moving = (left, right) if "b" in right else (right, left)
    before = set(axes) <= set(moving)
    shape = [LENGTHS[a] if a in axes else 1 for a in (moving if before else out)]
    params = {
        "kernel": draw(rng, *(LENGTHS[a] for a in kernel)),
        "scale": draw(rng, *shape, low=0.5),
        "shift": draw(rng, *shape),
    }

    def network(p, x):
        x = x * p["scale"] + p["shift"] if before else x
        operands = (p["kernel"], x) if kernel == left else (x, p["kernel"])
        y = jnp.einsum(product, *operands)
        return y if before else y * p["scale"] + p["shift"]

    check_equal(network, params, draw(rng, *(LENGTHS[a] for a in moving)))


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_transposed_convolution(transpose_kernel, padding, rng):
    x = draw(rng, 2, 4, 4, 3)
    kernel = draw(rng, 3, 3, 5, 3) if transpose_kernel else draw(rng, 3, 3, 3, 5)

    def network(p, x):
        z = lax.conv_transpose(
            x, p["kernel"], (2, 2), padding, transpose_kernel=transpose_kernel,
            dimension_numbers=ORDERS[2][0],
        )  # fmt: skip
        return norm(z, p["norm"])

    check_equal(network, {"kernel": kernel, "norm": draw_norm(rng, 5)}, x)


def test_a_batch_of_one_and_one_feature(rng):
    def network(p, x):
        return norm(x @ p["kernel"], p["norm"])

    params = {"kernel": draw(rng, 1, 1), "norm": draw_norm(rng, 1)}
    folded = check_equal(network, params, draw(rng, 1, 1))
    assert folded.params["bias"].shape == (1,)


def test_a_product_of_params_is_not_taken_for_a_layer(rng):
    """Both of its operands are fixed."""
    params = {"kernel": draw(rng, 4, 4), "image": draw(rng, 3, 4)}
    params["norm"] = draw_norm(rng, 4)

    def network(p, x):
        return norm(x + p["image"] @ p["kernel"], p["norm"])

    check_equal(network, params, draw(rng, 3, 4), left=1)
